//go:build verifiers

// Package policies_test has the programs of Kyverno and of sigstore's policy-controller apply the policies to images of
// a registry.
package policies_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	provenance    = "https://slsa.dev/provenance/v1"
	builder       = "https://stepwright.dev/steps/containerfile-build"
	repository    = "https://git.example.com/acme/shop"
	identity      = "https://kubernetes.io/namespaces/workflows-acme/serviceaccounts/workflow"
	issuer        = "https://kubernetes.default.svc.cluster.local"
)

// statement is a statement about digests, as JSON.
func statement(predicateType, predicate string, about ...v1.Hash) []byte {
	var subjects []string
	for _, digest := range about {
		subjects = append(subjects, `{"name":"_","digest":{"sha256":"`+digest.Hex+`"}}`)
	}
	return []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"` + predicateType + `","subject":[` +
		strings.Join(subjects, ",") + `],"predicate":` + predicate + `}`)
}

// built is the predicate of a provenance.
func built(builder, repository string) string {
	return `{"buildDefinition":{"buildType":"https://example.com","externalParameters":{"repository":{"url":"` +
		repository + `"}}},"runDetails":{"builder":{"id":"` + builder + `"}}}`
}

// made is an image with what a build says of it.
type made struct {
	index     v1.ImageIndex
	image     v1.Image
	predicate string // of the provenance; empty for none
}

func digest(t *testing.T, of interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	d, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// build is a build that says this of itself.
func build(t *testing.T, predicate string) made {
	t.Helper()
	m := made{image: registrytest.RandomImage(t, 1, 100), predicate: predicate}
	m.index = mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: m.image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}},
	})
	if predicate == "" {
		return m
	}
	attestation, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		static.NewLayer(statement(provenance, predicate, digest(t, m.image)), "application/vnd.in-toto+json"))
	if err != nil {
		t.Fatal(err)
	}
	m.index = mutate.AppendManifests(m.index, mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": digest(t, m.image).String(),
		},
	}})
	return m
}

// platform is a registry, and who signs what is pushed there.
type platform struct {
	registry *registrytest.Registry
	sign     func(t *testing.T, name string, m made, foreign bool)
	// admits tells whether a pod with the image is admitted, and what is said of it. A pod with an init container has
	// both images.
	admits func(t *testing.T, image string, init ...string) (admitted bool, said string)
	// refuses is what is said of an image that is not admitted, by why it is not.
	refuses map[reason]string
}

// reason is why an image is not admitted.
type reason string

const (
	notSigned  reason = "not signed"
	notAttest  reason = "no provenance"
	notOfOurs  reason = "built elsewhere"
	isAdmitted reason = ""
)

// policy writes a policy of this folder with texts of its own.
func policy(t *testing.T, name string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !bytes.Contains(text, []byte(replace[i])) {
			t.Fatalf("%s has no %q", name, replace[i])
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// keyOf is the key in the policies, with the spaces before its lines.
var keyOf = regexp.MustCompile(`(?s)-----BEGIN PUBLIC KEY-----.*-----END PUBLIC KEY-----\n`)

// byKey is a platform that signs with a key, by publish-image, and whose cluster has Kyverno.
func byKey(t *testing.T) platform {
	r := registrytest.New(t)
	kyverno := verifiertest.Build(t, "kyverno", "github.com/kyverno/kyverno/cmd/cli/kubectl-kyverno")
	publish := filepath.Join(t.TempDir(), "publish-image")
	if out, err := exec.CommandContext(
		t.Context(), "go", "build", "-o", publish, "../../steps/publish-image",
	).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	keys := map[bool]string{}
	var public string
	for _, foreign := range []bool{true, false} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[foreign], public = verifiertest.PrivateKey(t, key), verifiertest.PublicKey(t, key.Public())
	}
	own, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("kyverno-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	indented := strings.ReplaceAll(strings.TrimSpace(string(own)), "\n", "\n            ") + "\n"
	applied := policy(t, "kyverno-key.yaml", "registry.example.com", r.Host, keyOf.FindString(string(text)), indented)
	environment := verifiertest.Environment(t, r)
	return platform{
		registry: r,
		sign: func(t *testing.T, name string, m made, foreign bool) {
			t.Helper()
			dir := filepath.Join(t.TempDir(), "image")
			path, err := layout.Write(dir, empty.Index)
			if err == nil {
				err = path.AppendIndex(m.index)
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), publish, "--image-source", dir, "--workspace", t.TempDir(),
				"--results-dir", t.TempDir(), "--registry", r.Host, "--image-name", name, "--image-tag", "v1",
				"--ca-bundle", r.CAFile, "--registry-push-secret", r.DockerConfig, "--signing", "key",
				"--signing-key", keys[foreign]).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		},
		refuses: map[reason]string{
			notSigned: "an image is not signed with the platform's key",
			notAttest: "an image has no provenance that is signed with the platform's key",
			notOfOurs: "an image was built by somebody else, or of another organisation's repository",
		},
		admits: func(t *testing.T, image string, init ...string) (bool, string) {
			t.Helper()
			text := `apiVersion: v1
kind: Pod
metadata: {name: app, namespace: acme}
spec:
  containers: [{name: app, image: "` + image + `"}]
`
			for _, other := range init {
				text += `  initContainers: [{name: init, image: "` + other + `"}]` + "\n"
			}
			pod := verifiertest.File(t, []byte(text))
			cmd := exec.CommandContext(t.Context(), kyverno, "apply", applied, "--resource", pod, "--registry")
			cmd.Env = environment
			out, err := cmd.CombinedOutput()
			return err == nil && strings.Contains(string(out), "fail: 0"), string(out)
		},
	}
}

// byIdentity is a platform that signs as an identity, and whose cluster has sigstore's policy-controller. What signs is
// a double of Fulcio.
func byIdentity(t *testing.T) platform {
	r := registrytest.New(t)
	tester := verifiertest.Build(t, "policy-controller", "github.com/sigstore/policy-controller/cmd/tester")
	sigstore, elsewhere := sigstoretest.New(t), sigstoretest.New(t)
	applied := policy(t, "policy-controller-identity.yaml", "registry.example.com", r.Host)
	trusted := trustRoot(t, sigstore)
	environment := verifiertest.Environment(t, r)
	return platform{
		registry: r,
		sign: func(t *testing.T, name string, m made, foreign bool) {
			t.Helper()
			r.Push(t, name+":v1", m.index)
			by := sigstore
			if foreign {
				by = elsewhere
			}
			r.Attach(t, name, m.index, bundleType,
				by.Bundle(t, statement(signPredicate, "{}", digest(t, m.index)), identity, issuer))
			if m.predicate != "" {
				about := statement(provenance, m.predicate, digest(t, m.image), digest(t, m.index))
				r.Attach(t, name, m.index, bundleType, by.Bundle(t, about, identity, issuer))
			}
		},
		refuses: map[reason]string{
			notSigned: "attestation keyless validation failed for authority platform",
			notAttest: "no matching attestations with type https://slsa.dev/provenance/v1",
			notOfOurs: "failed evaluating cue policy for provenance",
		},
		admits: func(t *testing.T, image string, _ ...string) (bool, string) {
			t.Helper()
			cmd := exec.CommandContext(t.Context(), tester, "-policy", applied, "-image", image, "-trustroot", trusted)
			cmd.Env = environment
			out, err := cmd.CombinedOutput()
			return err == nil, string(out)
		},
	}
}

// trustRoot is the TrustRoot of this folder, with the authorities of a sigstore.
func trustRoot(t *testing.T, sigstore *sigstoretest.Sigstore) (file string) {
	t.Helper()
	type chain struct {
		CertChain struct {
			Certificates []struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"certificates"`
		} `json:"certChain"`
	}
	var root struct {
		Authorities []chain `json:"certificateAuthorities"`
		Timestamps  []chain `json:"timestampAuthorities"`
	}
	if err := json.Unmarshal(sigstore.Root, &root); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("policy-controller-trust-root.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []chain{root.Authorities[0], root.Timestamps[0]} {
		var certificates []byte
		for _, certificate := range c.CertChain.Certificates {
			certificates = append(certificates, pem.EncodeToMemory(
				&pem.Block{Type: "CERTIFICATE", Bytes: certificate.RawBytes},
			)...)
		}
		text = bytes.Replace(text, []byte("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t\n"),
			[]byte(base64.StdEncoding.EncodeToString(certificates)+"\n"), 1)
	}
	return verifiertest.File(t, text)
}

// A cluster admits an image that the platform signed, and none that is unsigned, signed by others, changed, or built
// elsewhere.
func TestPolicies(t *testing.T) {
	t.Parallel()
	for kind, start := range map[string]func(*testing.T) platform{
		"Kyverno": byKey, "policy-controller": byIdentity,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			ours := built(builder, repository)
			genuine := build(t, ours)
			p.sign(t, "signed", genuine, false)
			unsigned := build(t, ours)
			p.registry.Push(t, "unsigned:v1", unsigned.index)
			foreign := build(t, ours)
			p.sign(t, "foreign", foreign, true)
			listed := build(t, "")
			p.sign(t, "no-provenance", listed, false)
			other := build(t, built("https://example.com/builder", repository))
			p.sign(t, "builder", other, false)
			strange := build(t, built(builder, "https://git.example.com/other/shop"))
			p.sign(t, "repository", strange, false)

			// The bundles of the signed image, under one that was changed, and changed themselves.
			changed := genuine
			changed.index = mutate.Annotations(genuine.index, map[string]string{"a": "b"}).(v1.ImageIndex)
			p.registry.Push(t, "tampered:v1", changed.index)
			p.registry.Push(t, "forged:v1", changed.index)
			for _, bundle := range p.registry.Attached(t, "signed", digest(t, genuine.index)) {
				p.registry.Attach(t, "tampered", changed.index, bundleType, bundle)
				p.registry.Attach(t, "forged", changed.index, bundleType,
					restated(t, bundle, digest(t, genuine.index).Hex, digest(t, changed.index).Hex))
			}
			reference := func(name string, index v1.ImageIndex) string {
				return p.registry.Host + "/" + name + "@" + digest(t, index).String()
			}
			want := func(t *testing.T, why reason, admitted bool, said string) {
				t.Helper()
				if admitted != (why == isAdmitted) || !admitted && !strings.Contains(said, p.refuses[why]) {
					t.Errorf("admitted: %t, want that it is %q: %s", admitted, why, said)
				}
				t.Log(said)
			}
			for name, image := range map[string]struct {
				index v1.ImageIndex
				why   reason
			}{
				"signed": {genuine.index, isAdmitted}, "unsigned": {unsigned.index, notSigned},
				"foreign": {foreign.index, notSigned}, "tampered": {changed.index, notSigned},
				"forged": {changed.index, notSigned}, "no-provenance": {listed.index, notAttest},
				"builder": {other.index, notOfOurs}, "repository": {strange.index, notOfOurs},
			} {
				t.Run(name, func(t *testing.T) {
					admitted, said := p.admits(t, reference(name, image.index))
					want(t, image.why, admitted, said)
				})
			}
			if kind == "Kyverno" { // the other tester knows images, and no pods
				t.Run("init container", func(t *testing.T) {
					admitted, said := p.admits(
						t, reference("signed", genuine.index), reference("unsigned", unsigned.index),
					)
					want(t, notSigned, admitted, said)
				})
			}
		})
	}
}

// restated is a bundle whose statement has another text, with the signature that it had.
func restated(t *testing.T, bundle []byte, from, to string) []byte {
	t.Helper()
	var doc map[string]any
	var envelope struct {
		DSSEEnvelope struct {
			Payload []byte `json:"payload"`
		} `json:"dsseEnvelope"`
	}
	if err := json.Unmarshal(bundle, &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(bundle, &envelope); err != nil {
		t.Fatal(err)
	}
	said := envelope.DSSEEnvelope.Payload
	if !bytes.Contains(said, []byte(from)) {
		t.Fatalf("%q is not in %s", from, said)
	}
	doc["dsseEnvelope"].(map[string]any)["payload"] = bytes.ReplaceAll(said, []byte(from), []byte(to))
	raw, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
