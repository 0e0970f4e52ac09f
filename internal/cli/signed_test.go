package cli

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

// verifiable publishes the image of a run once more, with a key, and has cosign and stepwright verify it: the
// signature, and what is said of how it was made and, if it says so, of what is in it, both of the index, by which
// clusters know the image, and of its one image.
func verifiable(t *testing.T, reference, builder string, listed bool) {
	t.Helper()
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendIndex(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := verifiertest.PublicKey(t, key.Public())
	r := registrytest.New(t, registrytest.OnDisk) // in memory, large layers take minutes
	results := t.TempDir()
	if out, err := exec.CommandContext(
		t.Context(), filepath.Join(bin, "publish-image"), "--image-source", dir, "--workspace", t.TempDir(),
		"--results-dir", results, "--registry", r.Host, "--image-name", "app", "--image-tag", "v1", "--ca-bundle",
		r.CAFile, "--registry-push-secret", r.DockerConfig, "--signing", "key", "--signing-key",
		verifiertest.PrivateKey(t, key),
	).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	image, err := os.ReadFile(filepath.Join(results, "image"))
	if err != nil {
		t.Fatal(err)
	}
	cosign := verifiertest.NewCosign(t, r)
	whom := cosign.ByKey(public)
	out, err := cosign.Verify(t, r.Host+"/app:v1", whom)
	if err != nil {
		t.Errorf("cosign verify: %v: %s", err, out)
	}
	t.Logf("cosign verify: %s", out)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	kinds := []string{"slsaprovenance1"}
	if listed {
		kinds = append(kinds, "spdxjson")
	}
	for _, kind := range kinds {
		for _, at := range []string{"app:v1", "app@" + manifest.Manifests[0].Digest.String()} {
			out, err := cosign.VerifyAttestation(t, r.Host+"/"+at, kind, whom)
			if err != nil {
				t.Errorf("cosign verify-attestation of %s: %v: %s", at, err, out)
			}
			t.Logf("cosign verify-attestation --type %s %s: %.300s", kind, at, said(out))
		}
	}
	got, _ := stepwright(
		t, "verify", "--key", public, "--ca-bundle", r.CAFile, "--docker-config", r.DockerConfig, "--builder-id",
		builder, strings.TrimSpace(string(image)),
	)
	if got.code != 0 || listed != strings.Contains(strings.Join(strings.Fields(got.stdout), " "), "SBOMS 1") {
		t.Errorf("exit code %d: %s%s", got.code, got.stdout, got.stderr)
	}
	t.Logf("stepwright verify: %s", got.stdout)
}

// said is what cosign prints, with the statement in place of the envelope.
func said(printed string) string {
	var text strings.Builder
	for line := range strings.Lines(printed) {
		var envelope struct {
			Payload []byte `json:"payload"`
		}
		if json.Unmarshal([]byte(line), &envelope) == nil && len(envelope.Payload) > 0 {
			line = string(envelope.Payload) + "\n"
		}
		text.WriteString(line)
	}
	return text.String()
}
