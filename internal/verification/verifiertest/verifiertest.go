// Package verifiertest runs what others have written to verify images, for tests: programs of ci/verifiers.
package verifiertest

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
)

// Build builds a program of a module in ci/verifiers, given by its package, and returns its path. Linking one takes a
// while, so that it is kept with what can be made again for as long as the module and Go stay as they are.
func Build(t testing.TB, module, program string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds " + program)
	}
	dir := filepath.Join(root(t), "ci", "verifiers", module)
	key := sha256.New()
	key.Write([]byte(runtime.Version() + program))
	for _, file := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		key.Write(content)
	}
	kept, err := cachedir.Path("verifiers", module)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := filelock.Exclusive(t.Context(), kept+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	path := filepath.Join(kept, hex.EncodeToString(key.Sum(nil)[:8]))
	if _, err := os.Stat(path); err == nil {
		return path
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.RemoveAll(kept); err != nil { // of another version
		t.Fatal(err)
	}
	build := exec.CommandContext(
		t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path+".new", program,
	)
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	return path
}

// root is the folder of the project.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "ci", "verifiers")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test runs outside of the project")
		}
	}
}

// Cosign is the program of that name, which reaches a registry.
type Cosign struct {
	path        string
	environment []string
	nobody      string // a trusted root file that trusts nobody
}

// NewCosign is a Cosign for a registry.
func NewCosign(t testing.TB, r *registrytest.Registry) Cosign {
	t.Helper()
	c := Cosign{
		path:        Build(t, "cosign", "github.com/sigstore/cosign/v3/cmd/cosign"),
		environment: Environment(t, r),
	}
	c.nobody = File(t, []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	return c
}

// Environment has a program reach a registry, and keep what it keeps in a folder of the test.
func Environment(t testing.TB, r *registrytest.Registry) []string {
	t.Helper()
	environment := append(os.Environ(), "HOME="+t.TempDir(), "TUF_ROOT="+t.TempDir(), "DOCKER_CONFIG="+t.TempDir())
	if r.CAFile != "" {
		environment = append(environment, "SSL_CERT_FILE="+r.CAFile)
	}
	if r.DockerConfig != "" {
		environment = append(environment, "DOCKER_CONFIG="+filepath.Dir(r.DockerConfig))
	}
	return environment
}

// Run runs cosign, and returns all that it says.
func (c Cosign) Run(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.path, args...)
	cmd.Env = c.environment
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ByKey are the flags that trust a public key in a file. No log of transparency is looked at.
func (c Cosign) ByKey(file string) []string {
	return []string{"--key", file, "--trusted-root", c.nobody, "--insecure-ignore-tlog"}
}

// ByIdentity are the flags that trust an identity of an issuer by a trusted root in a file, which has an authority for
// timestamps and no logs.
func (c Cosign) ByIdentity(trustedRoot, identity, issuer string) []string {
	return []string{
		"--trusted-root", trustedRoot, "--certificate-identity", identity, "--certificate-oidc-issuer", issuer,
		"--use-signed-timestamps", "--insecure-ignore-tlog", "--insecure-ignore-sct",
	}
}

// Verify verifies the signature of an image by flags that say whom to trust.
func (c Cosign) Verify(t testing.TB, image string, whom []string) (string, error) {
	t.Helper()
	return c.Run(t, append(append([]string{"verify"}, whom...), image)...)
}

// VerifyAttestation verifies that an image, by digest, has an attestation of a type that cosign has a name for.
func (c Cosign) VerifyAttestation(t testing.TB, image, kind string, whom []string) (string, error) {
	t.Helper()
	args := append([]string{"verify-attestation", "--new-bundle-format", "--type", kind}, whom...)
	return c.Run(t, append(args, image)...)
}

// PublicKey writes a public key as PEM into a file.
func PublicKey(t testing.TB, public crypto.PublicKey) (file string) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return File(t, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// PrivateKey writes a private key as PEM into a file.
func PrivateKey(t testing.TB, private crypto.Signer) (file string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return File(t, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// File writes a file in a folder of its own.
func File(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
