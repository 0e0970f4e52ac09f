package publish_test

import (
	"crypto/elliptic"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
)

const runPredicate = "https://stepwright.dev/attestations/run/v1"

// runsOf are the statements of runs that refer to an image: as JSON, with their signatures unverified.
func runsOf(t testing.TB, repository, of string) (all []map[string]any) {
	t.Helper()
	at := must[name.Digest](t)(name.NewDigest(repository+"@"+of, name.Insecure))
	list := must[*v1.IndexManifest](t)(must[v1.ImageIndex](t)(remote.Referrers(at)).IndexManifest())
	for _, d := range list.Manifests {
		if d.Annotations["dev.sigstore.bundle.predicateType"] != runPredicate {
			continue
		}
		image := must[v1.Image](t)(remote.Image(at.Context().Digest(d.Digest.String())))
		content := must[io.ReadCloser](t)(must[[]v1.Layer](t)(image.Layers())[0].Compressed())
		var bundle struct {
			DSSEEnvelope struct{ Payload []byte }
		}
		if err := json.NewDecoder(content).Decode(&bundle); err != nil {
			t.Fatal(err)
		}
		content.Close()
		var statement map[string]any
		if err := json.Unmarshal(bundle.DSSEEnvelope.Payload, &statement); err != nil {
			t.Fatal(err)
		}
		all = append(all, statement)
	}
	return all
}

// What is known of the run is signed over the image, each time that a run publishes it. Nothing in the workspace has a
// say in it.
func TestRunStatement(t *testing.T) {
	t.Parallel()
	at := listing(t)
	image := registrytest.RandomImage(t, 1, 100)
	in, public := signed(t, publish.Parameters{
		Registry: at + "/team", ImageName: "shop-cart", ImageTag: "v1", InsecurePlainHTTP: true,
		RunName: "cart-build-1", RunUID: "6b1f", RunStart: "2026-11-27T10:46:00+01:00",
		Revision: `{"url":"https://git.example.com/acme/shop","branch":"main","commit":"` +
			strings.Repeat("1a", 20) + `","authorName":"A"}`,
	})
	in.Namespace, in.Project, in.Component = "acme", "shop", "cart"
	in.Workspace = built(t, image)
	repository := at + "/team/shop-cart"
	before := time.Now().Add(-time.Second)
	first, _ := mustRun(t, in)
	statements := runsOf(t, repository, digest(t, image))
	if len(statements) != 1 {
		t.Fatalf("%d statements, want 1", len(statements))
	}
	predicate := statements[0]["predicate"].(map[string]any)
	finished, err := time.Parse(time.RFC3339, fmt.Sprint(predicate["finishedOn"]))
	if err != nil || finished.Before(before) || finished.After(time.Now()) {
		t.Errorf("it ended at %v: %v", predicate["finishedOn"], err)
	}
	delete(predicate, "finishedOn")
	delete(predicate["publisher"].(map[string]any), "version")
	want := map[string]any{
		"run":       map[string]any{"name": "cart-build-1", "namespace": "acme", "uid": "6b1f"},
		"component": map[string]any{"project": "shop", "name": "cart"},
		"source": map[string]any{
			"repository": "https://git.example.com/acme/shop", "branch": "main", "commit": strings.Repeat("1a", 20),
		},
		"image":     at + "/team/shop-cart:v1",
		"startedOn": "2026-11-27T09:46:00Z",
		"publisher": map[string]any{"id": "https://stepwright.dev/steps/publish-image"},
	}
	if diff := cmp.Diff(want, predicate); diff != "" {
		t.Error(diff)
	}
	bundles := bundlesOf(t, repository, digest(t, image))
	if err := verified(bundles[runPredicate], public, digest(t, image)); err != nil || bundles[signPredicate] == nil {
		t.Errorf("%v, %v", bundles, err)
	}

	in.RunName, in.RunUID, in.Revision, in.RunStart = "cart-build-2", "", "", ""
	second, _ := mustRun(t, in)
	statements = runsOf(t, repository, digest(t, image))
	if len(statements) != 2 || first["signature-digest"] != second["signature-digest"] {
		t.Errorf("%d statements, want 2; signatures %v, %v", len(statements), first, second)
	}
	for _, s := range statements {
		predicate := s["predicate"].(map[string]any)
		named := predicate["run"].(map[string]any)
		if named["name"] == "cart-build-2" && (predicate["source"] != nil || predicate["startedOn"] != nil) {
			t.Errorf("it tells what nobody has told: %v", predicate)
		}
	}
	in.RunName = ""
	mustRun(t, in)
	if got := runsOf(t, repository, digest(t, image)); len(got) != 2 {
		t.Errorf("%d statements, one of no run", len(got))
	}
}

// An image that is built over and over has statements of so many runs, and goes on to be published and signed.
func TestManyRuns(t *testing.T) {
	t.Parallel()
	at := listing(t)
	image := registrytest.RandomImage(t, 1, 100)
	in := plain(at, built(t, image))
	in.Signing, in.SigningKey = "key", written(t, pkcs8(t, ecKey(t, elliptic.P256()))) // a password takes a second
	const most = 50
	told := ""
	for i := range most + 2 {
		in.RunName = fmt.Sprintf("run-%d", i)
		results, logged := mustRun(t, in)
		if results["signature-digest"] == "" {
			t.Fatalf("run %d does not sign", i)
		}
		told = logged
	}
	if got := runsOf(t, at+"/app", digest(t, image)); len(got) != most {
		t.Errorf("%d statements, want %d", len(got), most)
	}
	if !strings.Contains(told, "many runs") {
		t.Errorf("nothing is said of it: %s", told)
	}
}

// What is no fact of a run is refused before anything is pushed.
func TestWrongFactsOfARun(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	for kind, change := range map[string]func(in *publish.Parameters){
		"run-start": func(in *publish.Parameters) { in.RunStart = "yesterday" },
		"revision":  func(in *publish.Parameters) { in.Revision = "main" },
	} {
		in := to(r, built(t, registrytest.RandomImage(t, 1, 100)))
		in.RunName = "cart-build-1"
		change(&in)
		_, _, err := run(t, in)
		wantFailure(t, err, outcome.InvalidParameters, kind)
		if r.Has(t, reference) {
			t.Error("it is pushed all the same")
		}
	}
}
