package devregistry_test

import (
	"bytes"
	"net/http"
	"os"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sirupsen/logrus"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// A pushed image is there when the registry comes back, the password is asked for, and nothing is logged
// meanwhile.
func TestKeepsImagesInFolder(t *testing.T) {
	var logged bytes.Buffer
	logrus.SetOutput(&logged)
	defer logrus.SetOutput(os.Stderr)

	options := devregistry.Options{Dir: t.TempDir(), Users: map[string]string{"jane": "correct horse"}}
	auth := remote.WithAuth(&authn.Basic{Username: "jane", Password: "correct horse"})
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}

	ref := start(t, options)
	if err := remote.Write(ref, image, remote.WithAuth(&authn.Basic{Username: "jane", Password: "wrong"})); err == nil {
		t.Error("pushed with a wrong password")
	}
	if err := remote.Write(ref, image, auth); err != nil {
		t.Fatal(err)
	}
	again := start(t, options)
	got, err := remote.Head(again, auth)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != want {
		t.Errorf("got %s, want %s", got.Digest, want)
	}
	if logged.Len() > 0 {
		t.Errorf("logged: %s", &logged)
	}
}

func TestStartTwice(t *testing.T) {
	r, err := devregistry.New(devregistry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	host, err := r.Start("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Start(""); err == nil {
		t.Error("started twice")
	}
	response, err := http.Get("http://" + host + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got %s", response.Status)
	}
}

func start(t *testing.T, options devregistry.Options) name.Reference {
	t.Helper()
	r, err := devregistry.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	host, err := r.Start("")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/team/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	return ref
}
