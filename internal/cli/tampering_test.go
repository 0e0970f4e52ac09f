package cli_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

const (
	bundleType   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	builder      = "https://example.com/builder"
	identity     = "https://kubernetes.io/namespaces/acme/serviceaccounts/workflow"
	issuer       = "https://issuer.example.com"
	signedByUs   = "https://sigstore.dev/cosign/sign/v1"
	provenanceOf = "https://slsa.dev/provenance/v1"
)

// signedImage is an image as its publisher leaves it in a registry.
type signedImage struct {
	index        v1.ImageIndex
	signature    []byte   // the bundle that refers to the index
	attestations [][]byte // the bundles that refer to the index's one image
}

// image is the index's one image.
func (s signedImage) image(t *testing.T) v1.Image {
	t.Helper()
	manifest, err := s.index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := s.index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func digestOf(t *testing.T, of interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	digest, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// read reads a signed image that is in the registry.
func (p publisher) read(t *testing.T, name string, index v1.ImageIndex) signedImage {
	t.Helper()
	s := signedImage{index: index}
	about := p.registry.Attached(t, name, digestOf(t, index))
	s.signature = about[len(about)-1] // the last that is signed
	s.attestations = p.registry.Attached(t, name, digestOf(t, s.image(t)))
	return s
}

// put stores a signed image under another name, as name:v1.
func (p publisher) put(t *testing.T, name string, s signedImage) {
	t.Helper()
	p.registry.Push(t, name+":v1", s.index)
	p.registry.Attach(t, name, s.index, bundleType, s.signature)
	for _, attestation := range s.attestations {
		p.registry.Attach(t, name, s.image(t), bundleType, attestation)
	}
}

// withImage is an index whose one image is another one.
func withImage(image v1.Image) v1.ImageIndex {
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
}

// changed is a bundle with its statement or its signature changed.
func changed(t *testing.T, bundle []byte, change func(statement, signature []byte) (_, _ []byte)) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(bundle, &doc); err != nil {
		t.Fatal(err)
	}
	envelope := doc["dsseEnvelope"].(map[string]any)
	one := envelope["signatures"].([]any)[0].(map[string]any)
	decode := func(text any) []byte {
		raw, err := base64.StdEncoding.DecodeString(text.(string))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	envelope["payload"], one["sig"] = change(decode(envelope["payload"]), decode(one["sig"]))
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// restated is a bundle with a text of its statement replaced.
func restated(t *testing.T, bundle []byte, from, to string) []byte {
	t.Helper()
	return changed(t, bundle, func(statement, signature []byte) (_, _ []byte) {
		if !bytes.Contains(statement, []byte(from)) {
			t.Fatalf("%q is not in %s", from, statement)
		}
		return bytes.ReplaceAll(statement, []byte(from), []byte(to)), signature
	})
}

// Whatever of a signed image is changed, by somebody who can push to the repository, both stepwright verify and cosign
// refuse it; and they refuse who is not trusted.
func TestTampering(t *testing.T) {
	t.Parallel()
	p := newPublisher(t)
	cosign := verifiertest.NewCosign(t, p.registry)
	private, public := keyFiles(t)
	foreignPrivate, foreign := keyFiles(t)
	genuine := p.read(t, "genuine", p.publish(t, "genuine", "--signing", "key", "--signing-key", private))
	other := p.read(t, "other", p.publish(t, "other", "--signing", "key", "--signing-key", private))
	others := p.read(t, "others", p.publish(t, "others", "--signing", "key", "--signing-key", foreignPrivate))

	// By an identity, a double of Fulcio signs: what counts is what the two say of it.
	sigstore, elsewhere := sigstoretest.New(t), sigstoretest.New(t)
	trusted, another := file(t, sigstore.Root), file(t, elsewhere.Root)
	byIdentity := signedImage{index: genuine.index, signature: sigstore.Bundle(
		t, statementOf(digestOf(t, genuine.index), signedByUs, "{}"), identity, issuer,
	)}
	byIdentity.attestations = [][]byte{sigstore.Bundle(t, statementOf(
		digestOf(t, genuine.image(t)), provenanceOf, `{"runDetails":{"builder":{"id":"`+builder+`"}}}`,
	), identity, issuer)}

	more, err := mutate.Append(genuine.image(t), mutate.Addendum{Layer: layerOf(t)})
	if err != nil {
		t.Fatal(err)
	}
	annotated := mutate.Annotations(genuine.index, map[string]string{"a": "b"}).(v1.ImageIndex)
	flipped := func(statement, signature []byte) (_, _ []byte) {
		signature[len(signature)-1] ^= 1
		return statement, signature
	}
	key := whom{[]string{"--key", public}, cosign.ByKey(public)}
	them := whom{
		[]string{"--trusted-root", trusted, "--certificate-identity", identity, "--certificate-oidc-issuer", issuer},
		cosign.ByIdentity(trusted, identity, issuer),
	}
	for name, test := range map[string]struct {
		signed    signedImage
		whom      whom
		signature bool // whether it counts
		built     bool // whether its provenance does
	}{
		"nothing":             {genuine, key, true, true},
		"nothing-by-identity": {byIdentity, them, true, true},
		"layer": {
			signedImage{withImage(more), genuine.signature, genuine.attestations}, key, false, false,
		},
		"layer-restated": {signedImage{
			withImage(more),
			restated(t, genuine.signature, digestOf(t, genuine.index).Hex, digestOf(t, withImage(more)).Hex),
			[][]byte{restated(
				t, genuine.attestations[0], digestOf(t, genuine.image(t)).Hex, digestOf(t, more).Hex,
			)},
		}, key, false, false},
		"index": {signedImage{annotated, genuine.signature, genuine.attestations}, key, false, true},
		"attestation": {signedImage{genuine.index, genuine.signature, [][]byte{
			restated(t, genuine.attestations[0], builder, builder+"2"),
		}}, key, true, false},
		"attestation-of-another": {
			signedImage{genuine.index, genuine.signature, other.attestations}, key, true, false,
		},
		"attestation-by-another": {
			signedImage{others.index, other.signature, others.attestations}, key, false, false,
		},
		"bundle": {signedImage{
			genuine.index, changed(t, genuine.signature, flipped),
			[][]byte{changed(t, genuine.attestations[0], flipped)},
		}, key, false, false},
		"bundle-of-another":   {signedImage{genuine.index, other.signature, other.attestations}, key, false, false},
		"key":                 {genuine, whom{[]string{"--key", foreign}, cosign.ByKey(foreign)}, false, false},
		"key-for-an-identity": {genuine, them, false, false},
		"identity-for-a-key":  {byIdentity, key, false, false},
		"identity": {byIdentity, whom{
			append(them.ours[:2:2], "--certificate-identity", identity+"2", "--certificate-oidc-issuer", issuer),
			cosign.ByIdentity(trusted, identity+"2", issuer),
		}, false, false},
		"issuer": {byIdentity, whom{
			append(them.ours[:2:2], "--certificate-identity", identity, "--certificate-oidc-issuer", issuer+"/2"),
			cosign.ByIdentity(trusted, identity, issuer+"/2"),
		}, false, false},
		"sigstore": {byIdentity, whom{
			append([]string{"--trusted-root", another}, them.ours[2:]...), cosign.ByIdentity(another, identity, issuer),
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.put(t, name, test.signed)
			image := p.registry.Host + "/" + name
			code, stdout, stderr := p.verify(t, append(test.whom.ours, image+":v1")...)
			p.want(t, "the signature", test.signature, code, stdout+stderr)
			out, err := cosign.Verify(t, image+":v1", test.whom.cosigns)
			if (err == nil) != test.signature {
				t.Errorf("cosign verify: %v: %s", err, out)
			}

			code, stdout, stderr = p.verify(t, append(test.whom.ours, "--builder-id", builder, image+":v1")...)
			p.want(t, "the provenance", test.signature && test.built, code, stdout+stderr)
			platform := image + "@" + digestOf(t, test.signed.image(t)).String()
			out, err = cosign.VerifyAttestation(t, platform, "slsaprovenance1", test.whom.cosigns)
			if (err == nil) != test.built {
				t.Errorf("cosign verify-attestation: %v: %s", err, out)
			}
			if test.built && !strings.Contains(decoded(out), builder) {
				t.Errorf("%q is not in %s", builder, out)
			}
		})
	}
}

// whom says whom to trust, in our flags and in cosign's.
type whom struct{ ours, cosigns []string }

// want checks how stepwright verify ended.
func (publisher) want(t *testing.T, what string, counts bool, code int, said string) {
	t.Helper()
	wanted := outcome.VerificationFailed.ExitCode()
	if counts {
		wanted = 0
	}
	if code != wanted {
		t.Errorf("%s: exit code %d, want %d: %s", what, code, wanted, said)
	}
}

// statementOf is an in-toto statement about a digest.
func statementOf(about v1.Hash, predicateType, predicate string) []byte {
	return []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + about.Hex + `"}}],` +
		`"predicateType":"` + predicateType + `","predicate":` + predicate + `}`)
}

// decoded is the statement in what cosign verify-attestation prints, as JSON; empty where there is none.
func decoded(printed string) string {
	for line := range strings.Lines(printed) {
		var envelope struct {
			Payload []byte `json:"payload"`
		}
		if json.Unmarshal([]byte(line), &envelope) == nil && len(envelope.Payload) > 0 {
			return string(envelope.Payload)
		}
	}
	return ""
}

// layerOf is a layer of random content.
func layerOf(t *testing.T) v1.Layer {
	t.Helper()
	layers, err := registrytest.RandomImage(t, 1, 100).Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers[0]
}
