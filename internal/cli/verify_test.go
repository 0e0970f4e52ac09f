package cli_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/cli"
	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
)

// publisher is the program publish-image, and a registry that it pushes to.
type publisher struct {
	program  string
	registry *registrytest.Registry
}

// publish pushes an image with a provenance and an SBOM, and more parameters, and returns the index of all.
func (p publisher) publish(t *testing.T, name string, parameters ...string) v1.ImageIndex {
	t.Helper()
	image := registrytest.RandomImage(t, 1, 100)
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	provenance := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1",` +
		`"subject":[{"name":"_","digest":{"sha256":"` + digest.Hex + `"}}],"predicate":{"buildDefinition":` +
		`{"buildType":"https://example.com","externalParameters":{"repository":` +
		`{"url":"https://git.example.com/acme/shop","revision":{"commit":"1a2b3c4d5e6f"}}}},` +
		`"runDetails":{"builder":{"id":"https://example.com/builder"}}}}`
	list := `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://spdx.dev/Document",` +
		`"subject":[{"name":"_","digest":{"sha256":"` + digest.Hex + `"}}],"predicate":{"spdxVersion":"SPDX-2.3"}}`
	attestation, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer([]byte(provenance), "application/vnd.in-toto+json"),
		static.NewLayer([]byte(list), "application/vnd.in-toto+json"))
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{
			Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
		},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{Annotations: map[string]string{
			"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": digest.String(),
		}}})
	workspace := t.TempDir()
	path, err := layout.Write(filepath.Join(workspace, "image"), empty.Index)
	if err == nil {
		err = path.AppendIndex(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), p.program, append([]string{
		"--workspace", workspace, "--results-dir", t.TempDir(), "--registry", p.registry.Host, "--image-name", name,
		"--ca-bundle", p.registry.CAFile, "--registry-push-secret", p.registry.DockerConfig,
	}, parameters...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return index
}

// newPublisher builds the program and starts the registry.
func newPublisher(t *testing.T) publisher {
	t.Helper()
	p := publisher{filepath.Join(t.TempDir(), "publish-image"), registrytest.New(t)}
	if err := programtest.Build(
		t.Context(), filepath.Dir(p.program), "../..", "./steps/publish-image",
	); err != nil {
		t.Fatal(err)
	}
	return p
}

// verify runs stepwright verify.
func (p publisher) verify(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, faults bytes.Buffer
	args = append([]string{
		"verify", "--ca-bundle", p.registry.CAFile, "--docker-config", p.registry.DockerConfig,
	}, args...)
	code = cli.Main(t.Context(), args, &out, &faults)
	return code, out.String(), faults.String()
}

func file(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keyFiles are a new private key and its public key, in PEM.
func keyFiles(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	known, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return file(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		file(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: known}))
}

// stepwright verify believes what publish-image signed, and nothing else.
func TestVerify(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	private, public := keyFiles(t)
	_, foreign := keyFiles(t)
	p.publish(t, "signed", "--signing", "key", "--signing-key", private)
	p.publish(t, "unsigned")
	const account, issuer = "system:serviceaccount:workflows-acme:workflow-sa", "https://kubernetes.default.svc"
	sigstore := sigstoretest.WithLog(t)
	p.publish(t, "keyless", "--signing", "keyless", "--fulcio-url", sigstore.FulcioURL, "--insecure-fulcio-http=true",
		"--rekor-url", sigstore.RekorURL, "--timestamp-url", sigstore.TimestampURL, "--signing-identity-token-file",
		file(t, []byte(sigstoretest.Token(t, issuer, account))), "--run-name", "shop-42", "--namespace-name", "acme",
		"--run-start", "2026-11-27T10:46:00Z", "--revision",
		`{"url":"https://git.example.com/acme/shop","branch":"main","commit":"1a2b3c4d5e6f"}`)
	identified := func(root []byte, subject, issuer string, more ...string) []string {
		return append([]string{
			"--trusted-root", file(t, root), "--certificate-identity", sigstoretest.Identity(subject),
			"--certificate-oidc-issuer", issuer, p.registry.Host + "/keyless:v1",
		}, more...)
	}
	signed, unsigned := p.registry.Host+"/signed:v1", p.registry.Host+"/unsigned:v1"
	refused, misused := outcome.VerificationFailed.ExitCode(), outcome.UsageError.ExitCode()
	root := file(t, sigstoretest.New(t).Root)
	for kind, test := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"signed": {[]string{"--key", public, signed}, 0, []string{
			"SIGNED BY", "key ", "linux/amd64", "https://example.com/builder", "https://git.example.com/acme/shop",
			"1a2b3c4d5e6f",
		}},
		"as expected": {[]string{
			"--key", public, "--builder-id", "https://example.com/builder", "--commit", "1a2b3c4", "--repository",
			"https://git.example.com/acme/shop.git", signed,
		}, 0, nil},
		"of another commit": {
			[]string{"--key", public, "--commit", "1a2b3c5", signed}, refused, []string{"the commit is"},
		},
		"unsigned":   {[]string{"--key", public, unsigned}, refused, []string{"no signature that is trusted"}},
		"by another": {[]string{"--key", foreign, signed}, refused, []string{"could not verify"}},
		"by no identity": {[]string{
			"--trusted-root", root, "--certificate-identity", "a", "--certificate-oidc-issuer", "b", signed,
		}, refused, []string{"no signature that is trusted"}},
		"by an identity": {identified(sigstore.Root, account, issuer), 0, []string{
			"SIGNED BY", sigstoretest.Identity(account) + ", by " + issuer, "RUN", "shop-42", "acme", "main",
			"2026-11-27T10:46:00Z",
		}},
		"by another identity": {
			identified(sigstore.Root, "system:serviceaccount:workflows-evil:workflow-sa", issuer), refused,
			[]string{"no signature that is trusted"},
		},
		"by another issuer": {
			identified(sigstore.Root, account, issuer+".evil.example"), refused,
			[]string{"no signature that is trusted"},
		},
		"by another sigstore": {
			identified(sigstoretest.WithLog(t).Root, account, issuer), refused,
			[]string{"no signature that is trusted"},
		},
		"of the run": {identified(
			sigstore.Root, account, issuer, "--run", "shop-42", "--namespace", "acme", "--branch", "main",
			"--commit", "1a2b3c4",
		), 0, nil},
		"of another run": {
			identified(sigstore.Root, account, issuer, "--run", "shop-43"), refused, []string{"the run is"},
		},
		"of another namespace": {
			identified(sigstore.Root, account, issuer, "--run", "shop-42", "--namespace", "evil"), refused,
			[]string{`the namespace is "acme", and not "evil"`},
		},
		"of another branch": {
			identified(sigstore.Root, account, issuer, "--branch", "dev"), refused,
			[]string{`the branch is "main", and not "dev"`},
		},
		"of no run": {
			[]string{"--key", public, "--branch", "main", signed}, refused, []string{"no statement of a run"},
		},
		"absent":    {[]string{"--key", public, p.registry.Host + "/absent:v1"}, refused, nil},
		"by nobody": {[]string{signed}, misused, []string{"--key"}},
		"by both":   {[]string{"--key", public, "--trusted-root", root, signed}, misused, []string{"not by both"}},
		"by anybody of a sigstore": {
			[]string{"--trusted-root", root, signed}, misused, []string{"--certificate-identity"},
		},
		"a private key":        {[]string{"--key", private, signed}, misused, []string{"no public key"}},
		"a key that is absent": {[]string{"--key", "/absent", signed}, misused, []string{"/absent"}},
		"no reference":         {[]string{"--key", public, "UPPER:@"}, outcome.InvalidParameters.ExitCode(), nil},
		"an output of its own": {[]string{"--key", public, "-o", "xml", signed}, misused, []string{"--output"}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := p.verify(t, test.args...)
			if code != test.code {
				t.Errorf("exit code %d, want %d: %s%s", code, test.code, stdout, stderr)
			}
			for _, text := range test.says {
				if !strings.Contains(stdout+stderr, text) {
					t.Errorf("%q is not in %s%s", text, stdout, stderr)
				}
			}
		})
	}
	told := []string{"--run-name", "shop-42", "--namespace-name", "acme", "--revision",
		`{"url":"https://git.example.com/acme/shop","branch":"main","commit":"1a2b3c4d5e6f"}`}
	p.publish(t, "guide", append(told, "--signing", "key", "--signing-key", private)...)
	guide := guidetest.Blocks(
		t, "../../docs/platform/supply-chain.md", "These lines are run by go test ./internal/cli, TestVerify.",
	)
	mine := strings.NewReplacer(
		"cosign.pub", public, "registry.example.com/acme_shop_cart:v1-1a2b3c4d", p.registry.Host+"/guide:v1",
	)
	for _, line := range guidetest.Commands(guide[0]) {
		args := strings.Fields(mine.Replace(line))[2:]
		if code, stdout, stderr := p.verify(t, args...); code != 0 || !strings.Contains(stdout, "SIGNED BY") {
			t.Errorf("%s: exit code %d: %s%s", line, code, stdout, stderr)
		}
	}
	for image, verified := range map[string]bool{signed: true, unsigned: false} {
		_, stdout, _ := p.verify(t, "--key", public, "-o", "json", image)
		var report struct {
			Verified   bool
			Image      string
			Signatures []struct{ Key string }
			Platforms  []struct {
				Platform, Digest string
				Provenance       []struct{ Builder, Repository, Commit string }
			}
		}
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatalf("%v: %s", err, stdout)
		}
		if report.Verified != verified || (len(report.Signatures) == 1) != verified || len(report.Platforms) != 1 ||
			(len(report.Platforms[0].Provenance) == 1) != verified {
			t.Errorf("%s: got %s", image, stdout)
		}
	}
}
