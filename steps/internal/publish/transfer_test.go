package publish_test

import (
	"testing"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// The step leaves what it sent: the numbers are the registry's.
func TestTransfer(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	in := to(r, built(t, registrytest.RandomImage(t, 3, 10_000)))
	sent := func() buildreport.Transfer {
		t.Helper()
		var l log
		env := environment(&l)
		env.Left = &step.Files{}
		if _, err := publish.Run(t.Context(), in, env); err != nil {
			t.Fatal(err)
		}
		told, err := buildreport.ParseTransfer(env.Left.All()[buildreport.TransferName])
		if err != nil {
			t.Fatal(err)
		}
		return told
	}
	first := sent()
	if n := int64(len(uploads(r))); first.Uploaded.Count != n || n != 4 || first.Uploaded.Bytes != uploadedBytes(r) ||
		first.Skipped.Count != 0 {
		t.Errorf("%+v; the registry got %d blobs of %d bytes", first, n, uploadedBytes(r))
	}
	if again := sent(); again != (buildreport.Transfer{}) {
		t.Errorf("of an image that was there: %+v", again)
	}
	in.ImageTag = "another"
	if other := sent(); other.Uploaded.Count != 0 || other.Skipped != first.Uploaded {
		t.Errorf("under another tag: %+v", other)
	}
}
