package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// readLayout returns the one image of a layout that is not an index.
func readLayout(dir string) (v1.Image, error) {
	root, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, err
	}
	manifest, err := root.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, errors.New("not one image")
	}
	return root.Image(manifest.Manifests[0].Digest)
}

func TestPush(t *testing.T) {
	dir := madeImages(t)
	registry, err := devregistry.New(devregistry.Options{
		Dir:   t.TempDir(),
		Users: map[string]string{"pusher": "s3cret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	var uploads atomic.Int32
	host, err := registry.StartHandler("", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			uploads.Add(1)
		}
		registry.ServeHTTP(w, r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	docker := t.TempDir()
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("pusher:s3cret")))
	if err := os.WriteFile(filepath.Join(docker, "config.json"), []byte(login), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := []string{"DOCKER_CONFIG=" + docker}
	target := host + "/acme/stepwright"

	t.Run("plain HTTP unasked", func(t *testing.T) {
		_, err := run(t, environment, "push", "--dir", dir, "--registry", target, "publish-image")
		if err == nil || !strings.Contains(err.Error(), "only with --plain-http") {
			t.Error(err)
		}
	})
	t.Run("without credentials", func(t *testing.T) {
		_, err := run(t, []string{
			"DOCKER_CONFIG=" + t.TempDir(),
		}, "push", "--dir", dir, "--registry", target, "--plain-http", "publish-image")
		if err == nil || !strings.Contains(err.Error(), "401 Unauthorized") {
			t.Error(err)
		}
	})
	t.Run("all", func(t *testing.T) {
		out, err := run(t, environment, "push", "--dir", dir, "--registry", target, "--plain-http")
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range images {
			_, digest := platforms(t, filepath.Join(dir, img.step))
			reference := target + "/" + img.step + ":" + version
			if !strings.Contains(out, reference+"@"+digest.String()+"\n") {
				t.Errorf("lacks %s@%s:\n%s", reference, digest, out)
			}
			tag, err := name.NewTag(reference, name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			there, err := remote.Index(tag, remote.WithAuth(&authn.Basic{Username: "pusher", Password: "s3cret"}))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := there.Digest(); err != nil || got != digest {
				t.Errorf("%s has digest %s, not %s: %v", reference, got, digest, err)
			}
		}
	})
	t.Run("next version", func(t *testing.T) {
		next := t.TempDir()
		if _, err := run(
			t, nil, "build", "--source", made.source, "--dir", next, "--version", "v1.2.4", "--arch", runtime.GOARCH,
			"publish-image",
		); err != nil {
			t.Fatal(err)
		}
		uploads.Store(0)
		if _, err := run(
			t, environment, "push", "--dir", next, "--registry", target, "--plain-http", "publish-image",
		); err != nil {
			t.Fatal(err)
		}
		if n := uploads.Load(); n != 1 {
			t.Errorf("uploaded %d blobs: only the configuration is new", n)
		}
	})
}
