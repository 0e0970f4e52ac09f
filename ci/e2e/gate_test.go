//go:build e2e

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/replay"
)

// scannerDigest is the digest of the image of ci/e2e/scanner, which overlays/scan-gate has a placeholder for.
var scannerDigest string

var noDigest = "sha256:" + strings.Repeat("0", 64)

// publicKey is the file of the key that verifies images of TestComponents/scan-gate.
var publicKey string

// signingKey puts a new key into the secret store.
func signingKey(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	private := must(x509.MarshalPKCS8PrivateKey(key))(t)
	public := must(x509.MarshalPKIXPublicKey(key.Public()))(t)
	encoded := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	publicKey = filepath.Join(t.TempDir(), "cosign.pub")
	if err := os.WriteFile(publicKey, encoded("PUBLIC KEY", public), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := k8s.apply(t.Context(),
		stored("image-signing-key", map[string]string{"value": string(encoded("PRIVATE KEY", private))}),
		stored("image-signing-password", map[string]string{"value": ""}),
	); err != nil {
		t.Fatal(err)
	}
}

// behindGate looks at a run that has passed the gate, and makes one that has not.
func behindGate(t *testing.T, run string) {
	passed := must(k8s.run(t.Context(), run))(t)
	var tasks []string
	for _, task := range passed.Status.Tasks {
		tasks = append(tasks, task.Name+" "+task.Phase)
	}
	if want := []string{"checkout-source Succeeded", "containerfile-build Succeeded", "scan-gate Succeeded",
		"publish-image Succeeded", "generate-workload-cr Succeeded"}; !slices.Equal(tasks, want) {
		t.Errorf("tasks are %q, want %q", tasks, want)
	}
	image := workload(t, run).Spec.Container.Image
	_, digest, _ := strings.Cut(image, "@")
	for key, want := range map[string]string{
		"stepwright.dev/commit": "", "stepwright.dev/signature-digest": "sha256:",
		"stepwright.dev/branch": "main", "stepwright.dev/image-digest": digest,
	} {
		if got := passed.Annotations[key]; got == "" || !strings.HasPrefix(got, want) {
			t.Errorf("the annotation %s is %q, want %q", key, got, want)
		}
	}
	if said := logs(t, run); !strings.Contains(said, replay.Mark(replay.Check, "| scanned 2 layers")) ||
		strings.Contains(said, replay.Mark(replay.Check, "| reached")) ||
		strings.Contains(said, replay.Mark(replay.Check, "| wrote")) {
		t.Errorf("the check has seen something else than the image:\n%s", said)
	}
	reportSizes(t, image)
	reportTimes(t, run, byAge(pods(t, run))[0].CreationTimestamp.Time, 0, 0)

	dir := t.TempDir()
	config, authority := filepath.Join(dir, "config.json"), filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(config, []byte(dockerConfig(pullUser, pullPassword)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(authority, serving.ca, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), *cli, "verify", "--key", publicKey, "--docker-config", config,
		"--ca-bundle", authority, "--commit", passed.Annotations["stepwright.dev/commit"], image).CombinedOutput()
	if err != nil {
		t.Errorf("stepwright verify: %v\n%s", err, out)
	}
	reportf("\nstepwright verify --key cosign.pub %s\n%s", image, out)

	stopped := build{name: "scan-gate-stopped", url: "https://" + publicGit + "/scan-gate-stopped.git"}
	serving.repository(t, stopped.name+".git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nCOPY packages /opt/packages\n", "packages": "left-pad 1.0.0\nzlib 1.2.11\n",
	}))
	failure{"scan-gate", string(outcome.VulnerabilitiesFound), "", []string{
		"of severity high or above: 1 (1 critical, 1 medium)", "CVE-2024-0001 in left-pad 1.0.0",
	}}.check(t, stopped)
	failed := must(k8s.run(t.Context(), stopped.runName()))(t)
	for key, want := range map[string]string{
		"stepwright.dev/reason": string(outcome.VulnerabilitiesFound), "stepwright.dev/failed-step": "scan-gate",
	} {
		if got := failed.Annotations[key]; got != want {
			t.Errorf("the annotation %s is %q, want %q", key, got, want)
		}
	}
	reportf("\n%s\n", summary(failed))
	if tags := tagsOf(t, "builds/acme_online-store_"+stopped.name); len(tags) > 0 {
		t.Errorf("the registry has %q of an image that was stopped", tags)
	}

	// The repository says what does not apply.
	serving.repository(t, stopped.name+".git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nCOPY packages /opt/packages\n", "packages": "left-pad 1.0.0\nzlib 1.2.11\n",
		".scan-ignore": "CVE-2024-0001 exp:2999-12-31 # nothing pads here\n",
	}))
	stopped.run = "scan-gate-ignored"
	stopped.succeed(t, 4*time.Minute)
}

// tagsOf are the tags of a repository of the registry; none where there is no such repository.
func tagsOf(t *testing.T, repository string) []string {
	t.Helper()
	of := must(name.NewRepository(registryHost + "/" + repository))(t)
	tags, err := remote.List(of, remote.WithTransport(serving.transport), remote.WithAuth(credentials{}))
	if refused, ok := errors.AsType[*transport.Error](err); ok && refused.StatusCode == http.StatusNotFound {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

// reportSizes tells how many bytes an image, its attestations and its signatures have in the registry.
func reportSizes(t *testing.T, image string) {
	t.Helper()
	options := []remote.Option{remote.WithTransport(serving.transport), remote.WithAuth(credentials{})}
	_, digest, _ := strings.Cut(image, "@")
	repository, _, _ := strings.Cut(image[len(registryHost):], ":")
	at := must(name.NewDigest(registryHost + repository + "@" + digest))(t)
	index := must(must(remote.Index(at, options...))(t).IndexManifest())(t)
	var ofImage, attestations, signatures int64
	for _, m := range index.Manifests {
		one := must(remote.Image(at.Context().Digest(m.Digest.String()), options...))(t)
		manifest := must(one.Manifest())(t)
		size := m.Size + manifest.Config.Size
		for _, l := range manifest.Layers {
			size += l.Size
		}
		if m.Annotations["vnd.docker.reference.type"] == "" {
			ofImage += size
		} else {
			attestations += size
		}
		signatures += referring(t, at.Context().Digest(m.Digest.String()), options)
	}
	signatures += referring(t, at, options)
	reportf("\n%s has %d bytes in the registry, its attestations %d, its signatures %d\n", image, ofImage, attestations,
		signatures)
}

// referring is how many bytes the manifests have that refer to one, with what is in them.
func referring(t *testing.T, at name.Digest, options []remote.Option) (bytes int64) {
	t.Helper()
	list := must(must(remote.Referrers(at, options...))(t).IndexManifest())(t)
	for _, m := range list.Manifests {
		manifest := must(must(remote.Image(at.Context().Digest(m.Digest.String()), options...))(t).Manifest())(t)
		bytes += m.Size + manifest.Config.Size
		for _, l := range manifest.Layers {
			bytes += l.Size
		}
	}
	return bytes
}
