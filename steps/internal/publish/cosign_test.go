package publish_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/internal/pki"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
	"github.com/stepwright/stepwright/steps/internal/publish"
)

// cosign is the program of that name.
type cosign struct {
	path   string
	config string // its docker configuration is in this folder
	ca     string // of the registry
	root   string // a trusted root file, which trusts nobody: a key needs none
}

// buildCosign builds the cosign of ci/verifiers, and returns its path.
func buildCosign(t *testing.T) string {
	t.Helper()
	return verifiertest.Build(t, "cosign", "github.com/sigstore/cosign/v3/cmd/cosign")
}

// cosignOf is a cosign for a registry.
func cosignOf(t *testing.T, path string, r *registrytest.Registry) cosign {
	root := written(t, []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`))
	return cosign{path, filepath.Dir(r.DockerConfig), r.CAFile, root}
}

// run runs cosign with arguments, and returns all that it says.
func (c cosign) run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), c.path, args...)
	cmd.Env = c.environment(t)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c cosign) environment(t *testing.T) []string {
	return append(
		os.Environ(), "SSL_CERT_FILE="+c.ca, "DOCKER_CONFIG="+c.config, "COSIGN_PASSWORD="+keyPassword,
		"HOME="+t.TempDir(), "TUF_ROOT="+t.TempDir(),
	)
}

// verify verifies the signature of an image with a public key.
func (c cosign) verify(t *testing.T, public []byte, image string, more ...string) (string, error) {
	return c.run(t, append([]string{"verify", "--key", written(t, public), "--trusted-root", c.root,
		"--insecure-ignore-tlog", image}, more...)...)
}

// attestation verifies an attestation of an image with a public key.
func (c cosign) attestation(t *testing.T, public []byte, kind, image string) (string, error) {
	return c.run(t, "verify-attestation", "--key", written(t, public), "--trusted-root", c.root,
		"--insecure-ignore-tlog", "--new-bundle-format", "--type", kind, image)
}

func publicPEM(t testing.TB, public crypto.PublicKey) []byte {
	return pemOf("PUBLIC KEY", must[[]byte](t)(x509.MarshalPKIXPublicKey(public)))
}

// oldRegistry starts Debian's docker-registry, which is distribution 2.8, with TLS.
func oldRegistry(t *testing.T) *registrytest.Registry {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skip("there is no docker-registry: apt install docker-registry")
	}
	dir := t.TempDir()
	authority := must[*pki.Authority](t)(pki.NewAuthority("old registry"))
	pair := must[pki.Pair](t)(authority.Server("registry", "127.0.0.1"))
	listener := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	host := listener.Addr().String()
	listener.Close()
	r := &registrytest.Registry{
		Host: host, CAFile: filepath.Join(dir, "ca.pem"), DockerConfig: filepath.Join(dir, "config.json"),
	}
	for file, content := range map[string][]byte{
		"ca.pem": authority.PEM(), "tls.crt": pair.Certificate, "tls.key": pair.Key, "config.json": []byte("{}"),
		"registry.yml": fmt.Appendf(nil, `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %[1]s/images}}
http: {addr: %[2]q, tls: {certificate: %[1]s/tls.crt, key: %[1]s/tls.key}}
`, dir, host),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(program, "serve", filepath.Join(dir, "registry.yml"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		connection, err := net.Dial("tcp", host)
		if err == nil {
			connection.Close()
			return r
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v: %s", err, said.String())
		}
	}
}

// cosign itself verifies what publish-image signs, and refuses what it did not, on the registries that people run.
func TestCosign(t *testing.T) {
	t.Parallel()
	program := buildCosign(t)
	t.Run("keys", func(t *testing.T) {
		t.Parallel()
		verifyKeys(t, program)
	})
	t.Run("identity", func(t *testing.T) {
		t.Parallel()
		verifyIdentities(t, program)
	})
	for kind, start := range map[string]func(*testing.T) *registrytest.Registry{
		"distribution 3":   func(t *testing.T) *registrytest.Registry { return registrytest.New(t) },
		"distribution 2.8": oldRegistry,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := start(t)
			c := cosignOf(t, program, r)

			// cosign makes the key as the guide has a platform engineer do it, and verifies by the guide's lines.
			dir, guide := t.TempDir(), guideLines(t)
			if out, err := c.follow(t, dir, guide[0]); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			public := must[[]byte](t)(os.ReadFile(filepath.Join(dir, "cosign.pub")))
			image := registrytest.RandomImage(t, 2, 1000)
			index := attested(t, image, digest(t, image))
			in := to(r, built(t, index))
			in.Signing, in.SigningKey = "key", filepath.Join(dir, "cosign.key")
			in.SigningPassword = written(t, []byte(keyPassword+"\n"))
			mustRun(t, in)
			repository := r.Host + "/team/shop-cart"
			tag := repository + ":v1-1a2b3c4d"

			if out, err := c.follow(t, dir, strings.ReplaceAll(guide[1], guideImage, tag)); err != nil ||
				!strings.Contains(out, digest(t, index)) {
				t.Errorf("the lines of the guide: %v: %s", err, out)
			}
			out, err := c.verify(t, public, tag)
			if err != nil || !strings.Contains(out, digest(t, index)) {
				t.Errorf("verify: %v: %s", err, out)
			}
			out, err = c.attestation(t, public, "slsaprovenance1", repository+"@"+digest(t, image))
			if err != nil {
				t.Errorf("verify-attestation: %v: %s", err, out)
			}

			// The index has no other image: the tag will do.
			if out, err = c.attestation(t, public, "slsaprovenance1", tag); err != nil {
				t.Errorf("verify-attestation of the index: %v: %s", err, out)
			}

			foreign := publicPEM(t, ecKey(t, elliptic.P256()).Public())
			if out, err := c.verify(t, foreign, tag); err == nil {
				t.Errorf("a foreign key: %s", out)
			}
			if out, err := c.attestation(t, foreign, "slsaprovenance1", repository+"@"+digest(t, image)); err == nil {
				t.Errorf("an attestation by a foreign key: %s", out)
			}
			options := client(t, r)
			push := func(tag string, what remote.Taggable) string {
				t.Helper()
				reference := must[name.Tag](t)(name.NewTag(repository + ":" + tag))
				if err := remote.Put(reference, what, options...); err != nil {
					t.Fatal(err)
				}
				return reference.String()
			}
			unsigned := registrytest.RandomImage(t, 1, 100)
			in.Signing, in.ImageTag, in.Workspace = "none", "unsigned", built(t, unsigned)
			mustRun(t, in)
			if out, err := c.verify(t, public, repository+":unsigned-1a2b3c4d"); err == nil {
				t.Errorf("an unsigned image: %s", out)
			}
			tampered := mutate.Annotations(index, map[string]string{"a": "b"}).(v1.ImageIndex)
			if out, err := c.verify(t, public, push("tampered", tampered)); err == nil {
				t.Errorf("a tampered index: %s", out)
			}
			// The signature of one image, hung on another: whole, and with its statement changed.
			raw := signatureOf(t, repository, digest(t, index), options)
			for _, test := range []struct {
				bundle []byte
				why    string
			}{
				{raw, "does not match any digest in statement"},
				{restated(t, raw, digest(t, index), digest(t, unsigned)), "could not verify envelope"},
			} {
				hang(t, repository, unsigned, test.bundle, options)
				out, err := c.verify(t, public, repository+"@"+digest(t, unsigned))
				if err == nil || !strings.Contains(out, test.why) {
					t.Errorf("%v, want that it %s: %s", err, test.why, out)
				}
			}
		})
	}
}

// guideImage is what the guide calls its image.
const guideImage = "registry.example.com/acme_shop_cart:v1-1a2b3c4d"

// guideLines are the guide's lines for cosign: that make a key, that verify by it, and that verify by an identity.
func guideLines(t *testing.T) []string {
	t.Helper()
	blocks := guidetest.Blocks(
		t, "../../../docs/platform/supply-chain.md",
		"These lines are run by go test ./steps/internal/publish, TestCosign.",
	)
	if len(blocks) != 3 {
		t.Fatalf("the guide has %d blocks, and not 3", len(blocks))
	}
	return blocks
}

// follow has a shell run lines in a folder.
func (c cosign) follow(t *testing.T, dir, lines string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(c.path, filepath.Join(bin, "cosign")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-exc", lines)
	cmd.Dir, cmd.Env = dir, append(c.environment(t), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// verifyKeys verifies signatures by each kind of key.
func verifyKeys(t *testing.T, program string) {
	r := registrytest.New(t)
	c := cosignOf(t, program, r)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for kind, test := range map[string]struct {
		key  crypto.Signer
		more []string
	}{
		"ecdsa-p256": {ecKey(t, elliptic.P256()), nil},
		"ecdsa-p384": {ecKey(t, elliptic.P384()), []string{"--signature-digest-algorithm", "sha384"}},
		"ed25519":    {ed, nil},
		"rsa":        {must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 3072)), nil},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			in := to(r, built(t, registrytest.RandomImage(t, 1, 100)))
			in.ImageName, in.Signing, in.SigningKey = kind, "key", written(t, pkcs8(t, test.key))
			results, _ := mustRun(t, in)
			image, _, _ := strings.Cut(results["image"], "@")
			out, err := c.verify(t, publicPEM(t, test.key.Public()), image, test.more...)
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// verifyIdentities verifies signatures by an identity, at a sigstore that is a double, and compares them with cosign's.
func verifyIdentities(t *testing.T, program string) {
	r := registrytest.New(t)
	s := sigstoretest.WithLog(t)
	c := cosignOf(t, program, r)
	c.root = written(t, s.Root)
	repository := r.Host + "/team/shop-cart"
	verify := func(command, subject, image string, more ...string) (string, error) {
		return c.run(t, append([]string{
			command, "--trusted-root", c.root, "--certificate-identity", sigstoretest.Identity(subject),
			"--certificate-oidc-issuer", tokenIssuer, "--insecure-ignore-sct", image,
		}, more...)...)
	}
	logged, stamped := []string{}, []string{"--use-signed-timestamps", "--insecure-ignore-tlog"}
	const other = "system:serviceaccount:workflows-evil:workflow-sa"
	var ours []byte
	for kind, test := range map[string]struct {
		leave  func(in *publish.Parameters)
		proofs [][]string
		not    [][]string
	}{
		"both": {func(*publish.Parameters) {}, [][]string{
			logged, stamped, {"--use-signed-timestamps"},
		}, nil},
		"log":       {func(in *publish.Parameters) { in.TimestampURL = "" }, [][]string{logged}, [][]string{stamped}},
		"timestamp": {func(in *publish.Parameters) { in.RekorURL = "" }, [][]string{stamped}, [][]string{logged}},
	} {
		image := registrytest.RandomImage(t, 1, 100)
		index := attested(t, image, digest(t, image))
		in, _ := identified(t, to(r, built(t, index)), s, account)
		in.ImageTag, in.RunName = kind, "cart-build-1"
		test.leave(&in)
		mustRun(t, in)
		tag, about := repository+":"+kind+"-1a2b3c4d", repository+"@"+digest(t, image)
		for _, proof := range test.proofs {
			out, err := verify("verify", account, tag, proof...)
			if err != nil || !strings.Contains(out, digest(t, index)) {
				t.Errorf("%s, %q: %v: %s", kind, proof, err, out)
			}
			if out, err := verify("verify", other, tag, proof...); err == nil {
				t.Errorf("%s, %q: by another identity: %s", kind, proof, out)
			}
			attestation := append([]string{"--new-bundle-format", "--type", "slsaprovenance1"}, proof...)
			if out, err := verify("verify-attestation", account, about, attestation...); err != nil {
				t.Errorf("%s, %q: the attestation: %v: %s", kind, proof, err, out)
			}
			run := append([]string{"--new-bundle-format", "--type", runPredicate}, proof...)
			if out, err := verify("verify-attestation", account, tag, run...); err != nil {
				t.Errorf("%s, %q: the run: %v: %s", kind, proof, err, out)
			}
		}
		for _, proof := range test.not {
			if out, err := verify("verify", account, tag, proof...); err == nil {
				t.Errorf("%s, %q: it is proven otherwise: %s", kind, proof, out)
			}
		}
		// The guide's lines, with the flags that it has for a Fulcio without a log of certificates, and without a log.
		line := strings.ReplaceAll(strings.TrimSpace(guideLines(t)[2]), guideImage, tag) + " --insecure-ignore-sct"
		if kind == "timestamp" {
			line += " --use-signed-timestamps --insecure-ignore-tlog"
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "trusted_root.json"), s.Root, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := c.follow(t, dir, line); err != nil {
			t.Errorf("%s: the lines of the guide: %v: %s", kind, err, out)
		}
		if kind != "both" {
			continue
		}
		options := client(t, r)
		ours = signatureOf(t, repository, digest(t, index), options)
		unsigned := registrytest.RandomImage(t, 1, 100)
		in.Signing, in.ImageTag, in.Workspace = "none", "unsigned", built(t, unsigned)
		mustRun(t, in)
		hang(t, repository, unsigned, restated(t, ours, digest(t, index), digest(t, unsigned)), options)
		out, err := verify("verify", account, repository+"@"+digest(t, unsigned))
		if err == nil || !strings.Contains(out, "could not verify envelope") {
			t.Errorf("a tampered bundle: %v: %s", err, out)
		}
	}

	// cosign signs with the same services, and its bundles have the same form.
	image := registrytest.RandomImage(t, 1, 100)
	in := to(r, built(t, image))
	in.ImageTag = "theirs"
	mustRun(t, in)
	service := func(at string) []map[string]any {
		return []map[string]any{{
			"url": at, "majorApiVersion": 1, "operator": "example.com",
			"validFor": map[string]any{"start": "2020-01-01T00:00:00Z"},
		}}
	}
	signing := written(t, must[[]byte](t)(json.Marshal(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
		"caUrls":    service(s.FulcioURL), "rekorTlogUrls": service(s.RekorURL), "tsaUrls": service(s.TimestampURL),
		"rekorTlogConfig": map[string]any{"selector": "ANY"}, "tsaConfig": map[string]any{"selector": "ANY"},
	})))
	out, err := c.run(t, "sign", "--yes", "--signing-config", signing, "--trusted-root", c.root, "--identity-token",
		written(t, []byte(sigstoretest.Token(t, tokenIssuer, account))), repository+"@"+digest(t, image))
	if err != nil {
		t.Fatalf("cosign sign: %v: %s", err, out)
	}
	theirs := signatureOf(t, repository, digest(t, image), client(t, r))
	if diff := cmp.Diff(form(t, theirs), form(t, ours)); diff != "" {
		t.Errorf("cosign's bundles have another form (-cosign's +ours):\n%s", diff)
	}
}

// form is the form of a JSON document: kinds in place of its texts and numbers.
func form(t *testing.T, document []byte) any {
	t.Helper()
	var of func(value any) any
	of = func(value any) any {
		switch value := value.(type) {
		case map[string]any:
			all := map[string]any{}
			for key, inner := range value {
				all[key] = of(inner)
			}
			return all
		case []any:
			if len(value) == 0 {
				return []any{}
			}
			return []any{of(value[0])} // one is like the others
		}
		return fmt.Sprintf("%T", value)
	}
	var value any
	if err := json.Unmarshal(document, &value); err != nil {
		t.Fatalf("%v: %s", err, document)
	}
	return of(value)
}

// client is how tests reach a registry.
func client(t testing.TB, r *registrytest.Registry) []remote.Option {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must[[]byte](t)(os.ReadFile(r.CAFile)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	options := []remote.Option{remote.WithTransport(transport)}
	if r.User != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: r.User, Password: r.Password}))
	}
	return options
}

// signatureOf is the bundle that signs an image, as it is in the registry.
func signatureOf(t testing.TB, repository, of string, options []remote.Option) []byte {
	t.Helper()
	at := must[name.Digest](t)(name.NewDigest(repository + "@" + of))
	list := must[*v1.IndexManifest](t)(must[v1.ImageIndex](t)(remote.Referrers(at, options...)).IndexManifest())
	for _, d := range list.Manifests {
		held := must[v1.Image](t)(remote.Image(at.Context().Digest(d.Digest.String()), options...))
		told := must[*v1.Manifest](t)(held.Manifest()).Annotations // cosign's lists under a tag have none
		if told["dev.sigstore.bundle.predicateType"] != signPredicate {
			continue
		}
		content := must[io.ReadCloser](t)(must[[]v1.Layer](t)(held.Layers())[0].Compressed())
		defer content.Close()
		return must[[]byte](t)(io.ReadAll(content))
	}
	t.Fatalf("%s is not signed", of)
	return nil
}

// restated is a bundle whose statement names another digest, with the signature that it had.
func restated(t testing.TB, bundle []byte, from, to string) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(bundle, &doc); err != nil {
		t.Fatal(err)
	}
	envelope := doc["dsseEnvelope"].(map[string]any)
	statement := must[[]byte](t)(base64.StdEncoding.DecodeString(envelope["payload"].(string)))
	hex := func(digest string) []byte { return []byte(strings.TrimPrefix(digest, "sha256:")) }
	changed := bytes.ReplaceAll(statement, hex(from), hex(to))
	if bytes.Equal(changed, statement) {
		t.Fatalf("%s does not name %s", statement, from)
	}
	envelope["payload"] = changed
	return must[[]byte](t)(json.Marshal(doc))
}

// hang makes a bundle refer to an image that is in the repository.
func hang(t testing.TB, repository string, image v1.Image, bundle []byte, options []remote.Option) {
	t.Helper()
	held, err := mutate.AppendLayers(
		mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
			"application/vnd.dev.sigstore.bundle.v0.3+json"),
		static.NewLayer(bundle, "application/vnd.dev.sigstore.bundle.v0.3+json"),
	)
	if err != nil {
		t.Fatal(err)
	}
	subject := must[*v1.Descriptor](t)(partial.Descriptor(image))
	held = mutate.Subject(held, *subject).(v1.Image)
	at := must[name.Digest](t)(name.NewDigest(repository + "@" + digest(t, held)))
	if err := remote.Write(at, held, options...); err != nil {
		t.Fatal(err)
	}
}
