package publish_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	stdlog "log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	memory "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	in_toto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	sigstore "github.com/sigstore/sigstore/pkg/signature"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/secret"
)

// keyPassword is the password of keys that are encrypted.
const keyPassword = "canary-5a1e-password"

// written is a file in a folder of its own.
func written(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func pemOf(kind string, content []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content})
}

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// pkcs8 is a private key in PEM as openssl and cloud tools write it.
func pkcs8(t testing.TB, key any) []byte {
	return pemOf("PRIVATE KEY", must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key)))
}

// asCosign is a private key in PEM as cosign generate-key-pair writes it.
func asCosign(t testing.TB, key any, password string) []byte {
	plain := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))
	return pemOf("ENCRYPTED SIGSTORE PRIVATE KEY", must[[]byte](t)(encrypted.Encrypt(plain, []byte(password))))
}

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(curve, rand.Reader))
}

// signed are parameters that sign with a key, which is new, and the key's public part.
func signed(t testing.TB, in publish.Parameters) (publish.Parameters, crypto.PublicKey) {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	in.Signing, in.SigningKey = "key", written(t, asCosign(t, key, keyPassword))
	in.SigningPassword = written(t, []byte(keyPassword))
	return in, key.Public()
}

// provenance is a statement about an image.
func provenance(about string) string {
	return `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v1",` +
		`"subject":[{"name":"_","digest":{"sha256":"` + strings.TrimPrefix(about, "sha256:") + `"}}],` +
		`"predicate":{"buildDefinition":{"buildType":"https://example.com/build"}}}`
}

// attested is an index of an image and an attestation in BuildKit's form, whose statement is about some digest.
func attested(t testing.TB, image v1.Image, about string) v1.ImageIndex {
	t.Helper()
	return attestedAs(t, image, about, provenancePredicate)
}

// attestedAs is one whose statement has another predicate type.
func attestedAs(t testing.TB, image v1.Image, about, predicate string) v1.ImageIndex {
	t.Helper()
	statement := strings.Replace(provenance(about), provenancePredicate, predicate, 1)
	attestation, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer([]byte(statement), "application/vnd.in-toto+json"))
	if err != nil {
		t.Fatal(err)
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
		},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{
				"vnd.docker.reference.type":   "attestation-manifest",
				"vnd.docker.reference.digest": digest(t, image),
			},
		}})
}

// bundlesOf reads the bundles that refer to a digest of the repository, as any client of registries does: by predicate
// type, and the digests of the manifests that hold them.
func bundlesOf(t testing.TB, repository, of string, options ...remote.Option) map[string]*bundle.Bundle {
	t.Helper()
	found := map[string]*bundle.Bundle{}
	for predicate, all := range allBundlesOf(t, repository, of, options...) {
		if len(all) > 1 {
			t.Errorf("%s has two bundles of %s", of, predicate)
		}
		found[predicate] = all[0]
	}
	return found
}

// allBundlesOf is bundlesOf where there may be several of one predicate type.
func allBundlesOf(t testing.TB, repository, of string, options ...remote.Option) map[string][]*bundle.Bundle {
	t.Helper()
	at := must[name.Digest](t)(name.NewDigest(repository+"@"+of, name.Insecure))
	index := must[v1.ImageIndex](t)(remote.Referrers(at, options...))
	list := must[*v1.IndexManifest](t)(index.IndexManifest())
	found := map[string][]*bundle.Bundle{}
	for _, d := range list.Manifests {
		image := must[v1.Image](t)(remote.Image(at.Context().Digest(d.Digest.String()), options...))
		layers := must[[]v1.Layer](t)(image.Layers())
		content := must[io.ReadCloser](t)(layers[0].Compressed())
		raw := must[[]byte](t)(io.ReadAll(content))
		content.Close()
		b := &bundle.Bundle{}
		if err := b.UnmarshalJSON(raw); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		envelope, err := b.Envelope()
		if err != nil {
			t.Fatal(err)
		}
		predicate := must[*in_toto.Statement](t)(envelope.Statement()).GetPredicateType()
		found[predicate] = append(found[predicate], b)
	}
	return found
}

// verified verifies a bundle about a digest with sigstore's own library.
func verified(b *bundle.Bundle, public crypto.PublicKey, about string) error {
	verifier, err := sigstore.LoadDefaultVerifier(public)
	if err != nil {
		return err
	}
	key := root.NewExpiringKey(verifier, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(about, "sha256:"))
	if err != nil {
		return err
	}
	_, err = v.Verify(b, verify.NewPolicy(verify.WithArtifactDigest("sha256", sum), verify.WithKey()))
	return err
}

const (
	signPredicate       = "https://sigstore.dev/cosign/sign/v1"
	provenancePredicate = "https://slsa.dev/provenance/v1"
)

// listing is a registry that lists what refers to an image, as distribution does not. It is reached over plain HTTP.
func listing(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(memory.New(
		memory.WithReferrersSupport(true), memory.Logger(stdlog.New(io.Discard, "", 0)),
	))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// A signature is over the image, and the attestations in its index are signed over the image that they are about. The
// same image is not signed twice, whether or not the registry lists referrers.
func TestSigning(t *testing.T) {
	t.Parallel()
	for kind, host := range map[string]func() string{
		"the registry lists referrers": func() string { return listing(t) },
		"a tag lists them": func() string {
			return registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous).Host
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 2, 1000)
			index := attested(t, image, digest(t, image))
			at := host()
			in, public := signed(t, publish.Parameters{
				Registry: at + "/team", ImageName: "shop-cart", ImageTag: "v1", InsecurePlainHTTP: true,
			})
			in.Workspace = built(t, index)
			first, logged := mustRun(t, in)
			again, _ := mustRun(t, in)
			if !maps.Equal(first, again) || !strings.HasPrefix(first["signature-digest"], "sha256:") {
				t.Errorf("got %v, and then %v", first, again)
			}
			if strings.Contains(logged, keyPassword) {
				t.Errorf("the password is told: %s", logged)
			}
			repository := at + "/team/shop-cart"
			for about, predicates := range map[string][]string{
				digest(t, index): {signPredicate, provenancePredicate}, // it has one image only
				digest(t, image): {provenancePredicate},
			} {
				bundles := bundlesOf(t, repository, about)
				if got := slices.Sorted(maps.Keys(bundles)); !slices.Equal(got, predicates) {
					t.Fatalf("%s has %q, want %q", about, got, predicates)
				}
				for predicate, b := range bundles {
					if err := verified(b, public, about); err != nil {
						t.Errorf("%s: %v", predicate, err)
					}
					if verified(b, ecKey(t, elliptic.P256()).Public(), about) == nil {
						t.Errorf("%s: another key verifies it", predicate)
					}
					if verified(b, public, "sha256:"+strings.Repeat("0", 64)) == nil {
						t.Errorf("%s is about another image, too", predicate)
					}
				}
			}
			other, err := name.NewDigest(repository+"@"+first["signature-digest"], name.Insecure)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := remote.Head(other); err != nil {
				t.Error(err)
			}

			// Another key adds its signature and leaves the first.
			in, _ = signed(t, in)
			if second, _ := mustRun(t, in); second["signature-digest"] == first["signature-digest"] {
				t.Error("two keys have one signature")
			}
			list := must[v1.ImageIndex](t)(remote.Referrers(must[name.Digest](t)(
				name.NewDigest(repository+"@"+digest(t, index), name.Insecure))))
			if got := must[*v1.IndexManifest](t)(list.IndexManifest()); len(got.Manifests) != 4 {
				t.Errorf("%d referrers, want 4", len(got.Manifests))
			}
		})
	}
}

// Each of several images is signed, and so is the index. What is said of one is said of that one, and of the index only
// if it is said of each.
func TestSigningOfSeveralImages(t *testing.T) {
	t.Parallel()
	at := listing(t)
	image, other := registrytest.RandomImage(t, 1, 100), registrytest.RandomImage(t, 1, 100)
	of := attested(t, other, digest(t, other))
	entries := must[*v1.IndexManifest](t)(of.IndexManifest()).Manifests
	arm64 := mutate.IndexAddendum{
		Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}},
	}
	statement := mutate.IndexAddendum{
		Add: must[v1.Image](t)(of.Image(entries[1].Digest)), Descriptor: entries[1],
	}
	both := []string{signPredicate, provenancePredicate}
	for name, test := range map[string]struct {
		added               []mutate.IndexAddendum
		ofIndex, ofTheOther []string
	}{
		"said of one":  {[]mutate.IndexAddendum{arm64}, []string{signPredicate}, []string{signPredicate}},
		"said of both": {[]mutate.IndexAddendum{arm64, statement}, both, both},
	} {
		t.Run(name, func(t *testing.T) {
			index := mutate.AppendManifests(attested(t, image, digest(t, image)), test.added...)
			in, public := signed(t, publish.Parameters{
				Registry: at, ImageName: "app", ImageTag: "v1", InsecurePlainHTTP: true,
			})
			in.ImageName = strings.ReplaceAll(name, " ", "-")
			in.Workspace = built(t, index)
			first, _ := mustRun(t, in)
			for about, predicates := range map[string][]string{
				digest(t, index): test.ofIndex, digest(t, image): both, digest(t, other): test.ofTheOther,
			} {
				bundles := allBundlesOf(t, at+"/"+in.ImageName, about)
				if got := slices.Sorted(maps.Keys(bundles)); !slices.Equal(got, predicates) {
					t.Errorf("%s has %q, want %q", about, got, predicates)
				}
				for predicate, all := range bundles {
					want := 1
					if predicate == provenancePredicate && about == digest(t, index) {
						want = 2 // one of each image
					}
					if len(all) != want {
						t.Errorf("%s has %d bundles of %s, want %d", about, len(all), predicate, want)
					}
					for _, b := range all {
						if err := verified(b, public, about); err != nil {
							t.Errorf("%s: %v", predicate, err)
						}
					}
				}
			}
			if again, _ := mustRun(t, in); !maps.Equal(first, again) {
				t.Errorf("got %v, and then %v", first, again)
			}
		})
	}
}

// Nothing is signed unless it is asked for, and no question is asked about it.
func TestSigningIsOffByDefault(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	results, _ := mustRun(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))))
	if _, found := results["signature-digest"]; found {
		t.Errorf("got %v", results)
	}
	if asked := r.Requests(http.MethodGet, "/referrers/"); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
}

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	p256, p384 := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384())
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048 := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	sec1 := func(key *ecdsa.PrivateKey) []byte { return must[[]byte](t)(x509.MarshalECPrivateKey(key)) }
	tests := map[string]struct {
		key      []byte
		public   crypto.PublicKey
		password string
	}{
		"cosign's":                     {asCosign(t, p256, keyPassword), p256.Public(), keyPassword},
		"cosign's, before 2.0":         {cosign1(t, p256), p256.Public(), keyPassword},
		"a password and a line's end":  {asCosign(t, p256, keyPassword), p256.Public(), keyPassword + "\n"},
		"a password with a line's end": {asCosign(t, p256, keyPassword+"\n"), p256.Public(), keyPassword + "\n"},
		"no password":                  {asCosign(t, p256, ""), p256.Public(), ""},
		"ECDSA P-256 in PKCS #8":       {pkcs8(t, p256), p256.Public(), ""},
		"ECDSA P-384 in PKCS #8":       {pkcs8(t, p384), p384.Public(), ""},
		"ECDSA in SEC 1": {
			append(pemOf("EC PARAMETERS", []byte{6, 0}), pemOf("EC PRIVATE KEY", sec1(p256))...), p256.Public(), "",
		},
		"Ed25519": {pkcs8(t, ed), ed.Public(), ""},
		"RSA in PKCS #1": {
			pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsa2048)), rsa2048.Public(), "",
		},
		"RSA in PKCS #8": {pkcs8(t, rsa2048), rsa2048.Public(), "unused"},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			at := listing(t)
			image := registrytest.RandomImage(t, 1, 100)
			in := publish.Parameters{
				Registry: at, ImageName: "app", ImageTag: "v1", InsecurePlainHTTP: true,
				Signing: "key", SigningKey: written(t, test.key), SigningPassword: written(t, []byte(test.password)),
			}
			if test.password == "" {
				in.SigningPassword = filepath.Join(t.TempDir(), "absent")
			}
			in.Workspace = built(t, image)
			first, _ := mustRun(t, in)
			if again, _ := mustRun(t, in); !maps.Equal(first, again) {
				t.Errorf("got %v, and then %v", first, again)
			}
			b := bundlesOf(t, at+"/app", digest(t, image))[signPredicate]
			if b == nil {
				t.Fatal("it is not signed")
			}
			if err := verified(b, test.public, digest(t, image)); err != nil {
				t.Error(err)
			}
		})
	}
}

// cosign1 is a key as cosign 1 wrote it.
func cosign1(t testing.TB, key any) []byte {
	block, _ := pem.Decode(asCosign(t, key, keyPassword))
	return pemOf("ENCRYPTED COSIGN PRIVATE KEY", block.Bytes)
}

// A key that is not usable is told before anything is pushed, and nothing of it is.
// A Secret that must be there is waited for, and named when it does not come. Nothing is pushed without it.
func TestAwaitedSecrets(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	of := func(t *testing.T, name string) publish.Parameters {
		in, _ := signed(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))))
		in.ImageName, in.PushSecretRequired, in.PullSecretRequired, in.SecretTimeout = name, true, true, 60
		in.RegistryPullSecret = in.RegistryPushSecret
		return in
	}
	absent := filepath.Join(t.TempDir(), "of-the-platform", "absent")
	for name, test := range map[string]struct {
		change func(*publish.Parameters)
		reason outcome.Reason
	}{
		"push-secret": {func(in *publish.Parameters) { in.RegistryPushSecret = absent }, outcome.AuthenticationFailed},
		"pull-secret": {func(in *publish.Parameters) { in.RegistryPullSecret = absent }, outcome.AuthenticationFailed},
		"signing-key": {func(in *publish.Parameters) { in.SigningKey = absent }, outcome.SigningFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := of(t, name)
			in.SecretTimeout, in.SecretKeys = 1, []secret.Store{{Secret: "of-the-platform", Key: "ci/key"}}
			test.change(&in)
			_, _, err := run(t, in)
			wantFailure(t, err, test.reason, "of-the-platform (key ci/key of the secret store)", "within 1 s", absent)
			if n := len(r.Requests(http.MethodPost, "/v2/"+name)); n > 0 {
				t.Errorf("the registry was asked %d times", n)
			}
		})
	}
}

func TestUnusableSigningKey(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	p256, p521 := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P521())
	public := must[[]byte](t)(x509.MarshalPKIXPublicKey(p256.Public()))
	der := must[[]byte](t)(x509.MarshalPKCS8PrivateKey(p256))
	tests := map[string]struct {
		key  []byte // nil: there is none
		says string
	}{
		"absent":              {nil, "signing-key: there is no"},
		"empty":               {[]byte{}, "no private key in PEM"},
		"another password":    {asCosign(t, p256, "canary-other"), "signing-password"},
		"public":              {pemOf("PUBLIC KEY", public), "no private key in PEM"},
		"P-521":               {pkcs8(t, p521), "neither P-256 nor P-384"},
		"RSA of 1024 bits":    {pkcs8(t, must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))), "1024 bits"},
		"damaged":             {pemOf("PRIVATE KEY", der[:len(der)-40]), "damaged"},
		"encrypted otherwise": {pemOf("ENCRYPTED PRIVATE KEY", []byte("canary")), "cosign import-key-pair"},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			in, _ := signed(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))))
			in.ImageName = "app-" + strings.ToLower(strings.NewReplacer(" ", "-").Replace(kind))
			in.SigningKey = filepath.Join(t.TempDir(), "absent")
			if test.key != nil {
				in.SigningKey = written(t, test.key)
			}
			_, logged, err := run(t, in)
			wantFailure(t, err, outcome.SigningFailed, test.says)
			told := logged + fmt.Sprint(err)
			for line := range strings.Lines(string(test.key)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "-----") &&
					strings.Contains(told, line) {
					t.Errorf("%q is told: %s", line, told)
				}
			}
			if strings.Contains(told, keyPassword) {
				t.Errorf("the password is told: %s", told)
			}
			if r.Has(t, "team/"+in.ImageName+":v1-1a2b3c4d") {
				t.Error("it is pushed all the same")
			}
		})
	}
}

// What a build says of another image is not signed: an attestation counts for the image that it lies beside.
func TestForgedAttestationIsNotSigned(t *testing.T) {
	t.Parallel()
	at := listing(t)
	image, other := registrytest.RandomImage(t, 1, 100), registrytest.RandomImage(t, 1, 100)
	in, _ := signed(t, publish.Parameters{
		Registry: at, ImageName: "app", ImageTag: "v1", InsecurePlainHTTP: true,
	})
	in.Workspace = built(t, attested(t, image, digest(t, other)))
	_, logged := mustRun(t, in)
	for _, about := range []string{digest(t, image), digest(t, other)} {
		if got := bundlesOf(t, at+"/app", about); len(got) > 0 {
			t.Errorf("%s has %v", about, got)
		}
	}
	if !strings.Contains(logged, "An attestation is not signed") {
		t.Errorf("nothing is said of it: %s", logged)
	}
	// Nor is an attestation that only the publisher makes.
	for _, predicate := range []string{signPredicate, runPredicate} {
		image := registrytest.RandomImage(t, 1, 100)
		in.Workspace = built(t, attestedAs(t, image, digest(t, image), predicate))
		mustRun(t, in)
		if got := bundlesOf(t, at+"/app", digest(t, image)); len(got) > 0 {
			t.Errorf("%s: it has %v", predicate, got)
		}
	}
}

func referrersPut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256-")
}

// bundlePut matches the manifest of a bundle; an image's has a tag.
func bundlePut(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/sha256:")
}

func TestTransientFaultsOfSigning(t *testing.T) {
	t.Parallel()
	for kind, match := range map[string]func(*http.Request) bool{
		"the list of the registry": func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/referrers/") },
		"the bundle's manifest":    bundlePut,
		"the list under a tag":     referrersPut,
		"the list is read": func(r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/sha256-")
		},
	} {
		for how, fault := range map[string]faulttest.Fault{
			"breaks": {}, "answers 503": {Status: 503}, "answers 429": {Status: 429},
		} {
			t.Run(kind+" "+how, func(t *testing.T) {
				t.Parallel()
				r, in, proxy := behind(t, faulttest.First(2, match, fault), 1, 100)
				in, public := signed(t, in)
				results, logged := mustRun(t, in)
				if proxy.Faults.Load() != 2 {
					t.Errorf("%d faults, want 2\n%s", proxy.Faults.Load(), logged)
				}
				b := bundlesOf(t, r.Host+"/team/shop-cart", results["image-digest"])[signPredicate]
				if b == nil {
					t.Fatal("it is not signed")
				}
				if err := verified(b, public, results["image-digest"]); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// A registry that takes no signature is told of, with its own words.
func TestSignatureIsRefused(t *testing.T) {
	t.Parallel()
	unsupported := faulttest.Fault{
		Status: 400, Body: `{"errors":[{"code":"MANIFEST_INVALID","message":"unknown media type"}]}`,
	}
	for kind, match := range map[string]func(*http.Request) bool{
		"manifest": bundlePut, "list under a tag": referrersPut,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			_, in, _ := behind(t, always(match, unsupported), 1, 100)
			in, _ = signed(t, in)
			_, _, err := run(t, in)
			wantFailure(t, err, outcome.SigningFailed, "unknown media type", "signing=none")
		})
	}
}

// Several builds that sign one image at the same time lose no signature, also where the list is a tag.
func TestConcurrentSigning(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	image := registrytest.RandomImage(t, 1, 100)
	var wg sync.WaitGroup
	const n = 4
	digests := make([]string, n)
	for i := range n {
		in, _ := signed(t, to(r, built(t, image)))
		wg.Go(func() {
			results, err := publish.Run(context.Background(), in, environment(io.Discard))
			if err != nil {
				t.Error(err)
			}
			digests[i] = results["signature-digest"]
		})
	}
	wg.Wait()
	raw := r.Get(t, "team/shop-cart:"+strings.ReplaceAll(digest(t, image), ":", "-")).Manifest
	var list v1.IndexManifest
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		if !slices.ContainsFunc(list.Manifests, func(m v1.Descriptor) bool { return m.Digest.String() == d }) {
			t.Errorf("%s is not in %s", d, raw)
		}
	}
}
