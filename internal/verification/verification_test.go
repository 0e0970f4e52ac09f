package verification_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/internal/verification"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
)

const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	statementType = "application/vnd.in-toto+json"
	slsa1         = "https://slsa.dev/provenance/v1"
	slsa02        = "https://slsa.dev/provenance/v0.2"
)

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func digest(t testing.TB, image interface{ Digest() (v1.Hash, error) }) v1.Hash {
	return must[v1.Hash](t)(image.Digest())
}

// statement is an in-toto statement about a digest, with a predicate as JSON.
func statement(about v1.Hash, kind, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{%q:%q}}],`+
		`"predicateType":%q,"predicate":%s}`, about.Algorithm, about.Hex, kind, predicate)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// byKey is the bundle of a statement that a key signs.
func byKey(t testing.TB, key *ecdsa.PrivateKey, statement []byte) []byte {
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(statementType), statementType, len(statement), statement)
	sum := sha256.Sum256(pae)
	signed := must[[]byte](t)(key.Sign(rand.Reader, sum[:], crypto.SHA256))
	return must[[]byte](t)(json.Marshal(map[string]any{
		"mediaType":            bundleType,
		"verificationMaterial": map[string]any{"publicKey": map[string]any{"hint": "the hint is nobody's word"}},
		"dsseEnvelope": map[string]any{
			"payload": statement, "payloadType": statementType, "signatures": []any{map[string]any{"sig": signed}},
		},
	}))
}

// hang makes a bundle refer to what the registry has.
func hang(t testing.TB, r *registrytest.Registry, subject partial.Describable, bundle []byte) {
	t.Helper()
	r.Attach(t, "app", subject, bundleType, bundle)
}

// source is how the registry is reached.
func source(t testing.TB, r *registrytest.Registry) registry.Source {
	transport := must[*http.Transport](t)(trust.Transport(r.CAFile))
	t.Cleanup(transport.CloseIdleConnections)
	return registry.Source{
		Credentials: must[*registry.Credentials](t)(registry.LoadCredentials(r.DockerConfig, new(redact.Secrets))),
		Transport:   transport,
	}
}

const identity, issuer = "https://kubernetes.io/namespaces/acme/serviceaccounts/workflow", "https://issuer.example.com"

// provenance1 is a provenance as a builder of ours writes it, and provenance02 one as BuildKit did.
const (
	provenance1 = `{"buildDefinition":{"buildType":"https://stepwright.dev/build-types/dockerfile/v1",` +
		`"resolvedDependencies":[{"uri":"pkg:docker/golang@1","digest":{"sha256":"00"}},` +
		`{"uri":"git+https://git.example.com/acme/shop.git","digest":{"gitCommit":"1a2b3c4d5e6f"}}]},` +
		`"runDetails":{"builder":{"id":"https://stepwright.dev/steps/containerfile-build"},` +
		`"metadata":{"invocationId":"shop-42"}}}`
	provenance02 = `{"builder":{"id":"https://example.com/old"},"buildType":"https://mobyproject.org/buildkit@v1",` +
		`"metadata":{"https://mobyproject.org/buildkit@v1#metadata":{"vcs":` +
		`{"source":"https://git.example.com/acme/shop","revision":"1a2b3c4d5e6f"}}}}`
)

func wantFailure(t *testing.T, err error, texts ...string) {
	t.Helper()
	failure := outcome.Of(err)
	if failure == nil || failure.Reason != outcome.VerificationFailed {
		t.Fatalf("got %v, want %s", err, outcome.VerificationFailed)
	}
	for _, text := range texts {
		if !strings.Contains(failure.Message, text) {
			t.Errorf("%q is not in %q", text, failure.Message)
		}
	}
}

// Of an index with several images, each is told of for itself, and all that lack something are.
func TestVerifySeveralPlatforms(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	key := newKey(t)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	images := map[string]v1.Image{}
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		images[arch] = registrytest.RandomImage(t, 1, 100)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: images[arch], Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		}})
	}
	r.Push(t, "app:v1", index)
	whom := must[*verification.Trust](t)(verification.ByKey(key.Public()))
	check := func(expected verification.Expected) (verification.Report, error) {
		return verification.Verify(t.Context(), source(t, r), r.Host+"/app:v1", whom, expected)
	}
	hang(t, r, index, byKey(t, key, statement(digest(t, index), verification.SignPredicate, "{}")))
	hang(t, r, images["amd64"], byKey(t, key, statement(digest(t, images["amd64"]), slsa1, provenance1)))
	hang(t, r, images["amd64"], byKey(t, key, statement(digest(t, images["amd64"]), verification.SignPredicate, "{}")))
	hang(t, r, images["arm64"], byKey(t, key, statement(digest(t, images["arm64"]), slsa02, provenance02)))
	report, err := check(verification.Expected{Commit: "1a2b3c4d", Run: "shop-42"})
	wantFailure(t, err, "(linux/arm64) was built otherwise than expected: the run is",
		"(linux/s390x) has no provenance that is signed by whom it should be")
	if len(report.Platforms) != 3 {
		t.Fatalf("got %+v", report)
	}
	for i, want := range []struct {
		platform                string
		provenances, signatures int
	}{{"linux/amd64", 1, 1}, {"linux/arm64", 1, 0}, {"linux/s390x", 0, 0}} {
		got := report.Platforms[i]
		if got.Platform != want.platform || len(got.Provenances) != want.provenances ||
			len(got.Signatures) != want.signatures {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	hang(t, r, images["arm64"], byKey(t, key, statement(digest(t, images["arm64"]), slsa1, provenance1)))
	hang(t, r, images["s390x"], byKey(t, key, statement(digest(t, images["s390x"]), slsa1, provenance1)))
	if _, err := check(verification.Expected{Commit: "1a2b3c4d", Run: "shop-42"}); err != nil {
		t.Error(err)
	}
}

// An index has its signature, its images have their attestations, and what somebody else signed counts for nothing.
func TestVerify(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	key, foreign := newKey(t), newKey(t)
	image := registrytest.RandomImage(t, 1, 100)
	attestation := registrytest.RandomImage(t, 1, 100)
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: "amd64"},
		}},
		mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
		}})
	r.Push(t, "app:v1", index)
	whom := must[*verification.Trust](t)(verification.ByKey(key.Public()))
	at := source(t, r)
	check := func(expected verification.Expected) (verification.Report, error) {
		return verification.Verify(t.Context(), at, r.Host+"/app:v1", whom, expected)
	}

	_, err := check(verification.Expected{})
	wantFailure(t, err, "no signature that is trusted: nothing that refers to it is one")
	hang(t, r, index, byKey(t, foreign, statement(digest(t, index), verification.SignPredicate, "{}")))
	report, err := check(verification.Expected{})
	wantFailure(t, err, "no signature that is trusted", "could not verify")
	if len(report.Signatures) != 0 {
		t.Errorf("got %v", report)
	}
	hang(t, r, index, byKey(t, key, statement(digest(t, index), slsa1, provenance1)))
	_, err = check(verification.Expected{})
	wantFailure(t, err, "no signature that is trusted") // an attestation is none
	hang(t, r, index, byKey(t, key, statement(digest(t, image), verification.SignPredicate, "{}")))
	_, err = check(verification.Expected{})
	wantFailure(t, err, "does not match any digest") // of another manifest

	hang(t, r, index, byKey(t, key, statement(digest(t, index), verification.SignPredicate, "{}")))
	hang(t, r, image, byKey(t, foreign, statement(digest(t, image), slsa1, provenance02)))
	if report, err = check(verification.Expected{}); err != nil || len(report.Signatures) != 1 ||
		len(report.Platforms) != 1 || len(report.Platforms[0].Provenances) != 0 {
		t.Fatalf("got %+v, %v", report, err)
	}
	if strings.Contains(report.Signatures[0].Key, "hint") {
		t.Errorf("the key is named by a stranger: %s", report.Signatures[0].Key)
	}
	_, err = check(verification.Expected{Commit: "1a2b3c4d"})
	wantFailure(t, err, "has no provenance that is signed by whom it should be")

	hang(t, r, image, byKey(t, key, statement(digest(t, image), slsa1, provenance1)))
	hang(t, r, image, byKey(t, key, statement(digest(t, image), "https://spdx.dev/Document", "{}")))
	expected := verification.Expected{
		Builder: "https://stepwright.dev/steps/containerfile-build", Repository: "https://git.example.com/acme/shop",
		Commit: "1a2b3c4d", Run: "shop-42",
	}
	if report, err = check(expected); err != nil {
		t.Fatal(err)
	}
	platform := report.Platforms[0]
	if platform.Platform != "linux/amd64" || platform.SBOMs != 1 || len(platform.Provenances) != 1 ||
		platform.Provenances[0].Commit != "1a2b3c4d5e6f" || report.Image != r.Host+"/app@"+digest(t, index).String() {
		t.Errorf("got %+v", report)
	}
	for what, wrong := range map[string]verification.Expected{
		"the builder":    {Builder: "https://stepwright.dev/steps/buildpacks-build"},
		"the repository": {Repository: "https://git.example.com/acme/shop2"},
		"the commit":     {Commit: "1a2b3c4e"},
		"the run":        {Run: "shop-43"},
	} {
		_, err := check(wrong)
		wantFailure(t, err, "was built otherwise than expected", what)
	}
}

// What a publisher says of the runs counts when whom one trusts has signed it, and all of it by one statement.
func TestRuns(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	key, foreign := newKey(t), newKey(t)
	image := registrytest.RandomImage(t, 1, 100)
	r.Push(t, "app:v1", image)
	told := func(by *ecdsa.PrivateKey, name, namespace, branch string) {
		hang(t, r, image, byKey(t, by, statement(
			digest(t, image), "https://stepwright.dev/attestations/run/v1",
			fmt.Sprintf(`{"run":{"name":%q,"namespace":%q},"source":{"repository":"https://git.example.com/acme/shop",`+
				`"branch":%q,"commit":"1a2b3c4d5e6f"},"startedOn":"2026-11-27T10:46:00Z"}`, name, namespace, branch),
		)))
	}
	hang(t, r, image, byKey(t, key, statement(digest(t, image), verification.SignPredicate, "{}")))
	hang(t, r, image, byKey(t, key, statement(digest(t, image), slsa1, provenance1)))
	whom := must[*verification.Trust](t)(verification.ByKey(key.Public()))
	at := source(t, r)
	check := func(expected verification.Expected) (verification.Report, error) {
		return verification.Verify(t.Context(), at, r.Host+"/app:v1", whom, expected)
	}
	main := verification.Expected{Namespace: "acme", Branch: "main"}
	told(foreign, "shop-1", "acme", "main")
	report, err := check(main)
	wantFailure(t, err, "no statement of a run that is signed by whom it should be")
	if _, err := check(verification.Expected{Run: "shop-42"}); err != nil {
		t.Errorf("the provenance tells the run: %v", err)
	}
	if len(report.Runs) != 0 {
		t.Errorf("got %v", report.Runs)
	}
	told(key, "shop-1", "acme", "dev")
	told(key, "shop-2", "evil", "main")
	report, err = check(main)
	wantFailure(t, err, "of another run", `the branch is "dev"`, `the namespace is "evil"`)
	if len(report.Runs) != 2 || len(report.Platforms[0].Other) != 0 {
		t.Errorf("got %+v", report)
	}
	told(key, "shop-3", "acme", "main")
	for kind, expected := range map[string]verification.Expected{
		"the branch": main,
		"the run":    {Run: "shop-3", Namespace: "acme"},
		"the commit": {
			Run: "shop-3", Branch: "main", Commit: "1a2b3c4d", Repository: "git.example.com/acme/shop",
		},
	} {
		if _, err := check(expected); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, expected := range []verification.Expected{
		{Run: "shop-4"}, {Run: "shop-42"}, {Run: "shop-1", Branch: "main"}, {Run: "shop-42", Namespace: "acme"},
		{Branch: "main", Commit: "1a2b3c4e"}, {Branch: "main", Builder: "https://example.com/another"},
	} {
		_, err := check(expected)
		wantFailure(t, err)
	}
}

// An image without an index has all statements about it.
func TestVerifyWithoutIndex(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	key := newKey(t)
	image := registrytest.RandomImage(t, 1, 100)
	r.Push(t, "app:v1", image)
	hang(t, r, image, byKey(t, key, statement(digest(t, image), verification.SignPredicate, "{}")))
	hang(t, r, image, byKey(t, key, statement(digest(t, image), slsa02, provenance02)))
	whom := must[*verification.Trust](t)(verification.ByKey(key.Public()))
	reference := r.Host + "/app@" + digest(t, image).String()
	report, err := verification.Verify(t.Context(), source(t, r), reference, whom, verification.Expected{
		Builder: "https://example.com/old", Repository: "git+https://git.example.com/acme/shop.git",
		Commit: "1a2b3c4d5e6f",
	})
	if err != nil || len(report.Signatures) != 1 || len(report.Platforms) != 1 {
		t.Errorf("got %+v, %v", report, err)
	}
	_, err = verification.Verify(t.Context(), source(t, r), r.Host+"/app:absent", whom, verification.Expected{})
	wantFailure(t, err)
}

// A signature by an identity counts with the sigstore that is trusted, the identity and the issuer.
func TestVerifyByIdentity(t *testing.T) {
	t.Parallel()
	sigstore, other := sigstoretest.New(t), sigstoretest.New(t)
	about := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("ab", 32)}
	content := sigstore.Bundle(t, statement(about, verification.SignPredicate, "{}"), identity, issuer)
	tests := map[string]struct {
		root   []byte
		who    verification.Identity
		bundle []byte
		about  v1.Hash
		fails  string
	}{
		"exact": {sigstore.Root, verification.Identity{Subject: identity, Issuer: issuer}, content, about, ""},
		"regular expressions": {
			sigstore.Root, verification.Identity{SubjectRegexp: "^https://kuber", IssuerRegexp: "example.com$"},
			content, about, "",
		},
		"another identity": {
			sigstore.Root, verification.Identity{Subject: identity + "2", Issuer: issuer}, content, about, "identit",
		},
		"another issuer": {
			sigstore.Root, verification.Identity{Subject: identity, Issuer: issuer + ":1"}, content, about, "identit",
		},
		"another sigstore": {
			other.Root, verification.Identity{Subject: identity, Issuer: issuer}, content, about, "",
		},
		"another image": {
			sigstore.Root, verification.Identity{Subject: identity, Issuer: issuer}, content,
			v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("cd", 32)}, "digest",
		},
		"a key": {
			sigstore.Root, verification.Identity{Subject: identity, Issuer: issuer},
			byKey(t, newKey(t), statement(about, verification.SignPredicate, "{}")), about, "",
		},
		"a statement that was changed": {
			sigstore.Root, verification.Identity{Subject: identity, Issuer: issuer},
			bytes.Replace(content, []byte(`"payload":"`), []byte(`"payload":"e30K`), 1), about, "",
		},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			whom := must[*verification.Trust](t)(verification.ByIdentity(test.root, test.who))
			got, err := whom.Verify(test.bundle, test.about)
			if wants := kind == "exact" || kind == "regular expressions"; wants != (err == nil) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%q is not in %q", test.fails, err)
			}
			by := got.Signer
			if err == nil && (by.Identity != identity || by.Issuer != issuer || by.Time == nil) {
				t.Errorf("got %+v", by)
			}
		})
	}
}
