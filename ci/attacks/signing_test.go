package attacks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

// forgery is in all that a build forges, and must be in nothing that is signed.
const forgery = "forged-9c3a"

// statements that a build would like to have signed, about whatever image.
const (
	forgedProvenance = `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://slsa.dev/provenance/v1",` +
		`"subject":[{"name":"_","digest":{"sha256":"` + zeroes + `"}}],"predicate":{"runDetails":{"builder":` +
		`{"id":"https://stepwright.dev/` + forgery + `"}}}}`
	forgedList = `{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"` + forgery +
		`","documentNamespace":"https://example.com/` + forgery + `","creationInfo":{` +
		`"created":"2026-01-01T00:00:00Z","creators":["Tool: ` + forgery + `"]},"packages":[{"SPDXID":"SPDXRef-1",` +
		`"name":"` + forgery + `","downloadLocation":"NOASSERTION"}]}`
	zeroes = "0000000000000000000000000000000000000000000000000000000000000000"
)

// scanner is the image of a scanner that lists the files of /packages.
func (s site) scanner(t *testing.T) string {
	t.Helper()
	image := busybox(t)
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.Config.Entrypoint = []string{"sh", "-e", "-c", `
busybox --install -s /bin
for name in $(ls $BUILDKIT_SCAN_SOURCE/packages); do
	list="$list,{\"SPDXID\":\"SPDXRef-$name\",\"name\":\"$name\",\"downloadLocation\":\"NOASSERTION\"}"
done
printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document",
	"predicate":{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"image",
	"documentNamespace":"https://example.com/1","creationInfo":{"created":"2026-01-01T00:00:00Z",
	"creators":["Tool: script"]},"packages":[%s]}}' "${list#,}" > $BUILDKIT_SCAN_DESTINATION/image.spdx.json`}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	s.registry.Push(t, "scanner:1", image)
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return s.registry.Host + "/scanner@" + digest.String()
}

// publisher signs images with a key, and verifies them.
type publisher struct {
	registry        *registrytest.Registry
	cosign          verifiertest.Cosign
	private, public string // files
}

func newPublisher(t *testing.T, r *registrytest.Registry) publisher {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return publisher{
		r, verifiertest.NewCosign(t, r), verifiertest.PrivateKey(t, key), verifiertest.PublicKey(t, key.Public()),
	}
}

// publish publishes the image of a layout, which holds all of it, and verifies with cosign and stepwright that all is
// signed that should be: the index, and a provenance and a bill for each of its images. It returns the predicates of
// the latter, by the names that cosign has for their types.
func (p publisher) publish(t *testing.T, image, name string) map[string]string {
	t.Helper()
	made := step(t, "publish-image", "--workspace="+t.TempDir(), "--image-source="+image,
		"--registry="+p.registry.Host, "--image-name="+name, "--image-tag=v1", "--insecure-plain-http=true",
		"--signing=key", "--signing-key="+p.private)
	made.refused(t, outcome.Succeeded)
	whom := p.cosign.ByKey(p.public)
	if out, err := p.cosign.Verify(t, made.result("image"), whom); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	index, err := p.registry.Get(t, name+":v1").ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	// The signature, and the provenance and the bill of the only image.
	if bundles := len(p.registry.Attached(t, name, parse(t, made.result("image-digest")))); bundles != 3 {
		t.Errorf("%d bundles are about the index", bundles)
	}
	predicates := map[string]string{}
	for _, d := range manifest.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if attested := len(p.registry.Attached(t, name, d.Digest)); attested != 2 {
			t.Errorf("%d attestations are signed", attested)
		}
		for _, kind := range []string{"slsaprovenance1", "spdxjson"} {
			out, err := p.cosign.VerifyAttestation(t, p.registry.Host+"/"+name+"@"+d.Digest.String(), kind, whom)
			if err != nil {
				t.Errorf("%s: %v: %s", kind, err, out)
			}
			predicates[kind] = predicate(out)
		}
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, "stepwright"), "verify", "--key", p.public,
		"--insecure-registry", p.registry.Host, made.result("image")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "BUILDER") {
		t.Errorf("%v: %s", err, out)
	}
	return predicates
}

func parse(t *testing.T, digest string) v1.Hash {
	t.Helper()
	hash, err := v1.NewHash(strings.TrimSpace(digest))
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// predicate is the predicate in what cosign verify-attestation prints: an envelope on a line.
func predicate(printed string) string {
	for line := range strings.Lines(printed) {
		var envelope struct {
			Payload []byte `json:"payload"`
		}
		var statement struct {
			Predicate json.RawMessage `json:"predicate"`
		}
		if json.Unmarshal([]byte(line), &envelope) == nil && json.Unmarshal(envelope.Payload, &statement) == nil {
			return string(statement.Predicate)
		}
	}
	return ""
}

// A Dockerfile that writes results, prints statements and leaves bills in the image has nothing of it signed: what is
// signed is what the step knows, and what the scanner found.
func TestDockerfilesForgeNoStatement(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := newPublisher(t, s.registry)
	got := s.build(t, modes[0], attempt{
		flags: []string{"--sbom=final", "--sbom-scanner=" + s.scanner(t), "--image-name=cart"},
		files: map[string]string{
			"statement.json": forgedProvenance, "list.json": forgedList,
			"Dockerfile": `FROM busybox:1
RUN busybox --install -s /bin && mkdir -p /packages /results /tmp/results /tekton/results /run/out
RUN touch /packages/server
COPY list.json /sbom.spdx.json
COPY list.json /usr/local/share/sbom/list.spdx.json
COPY list.json /layers/sbom/launch/cart/sbom.spdx.json
COPY statement.json /run/out/provenance.json
RUN cat /run/out/provenance.json; cat /sbom.spdx.json; \
  for dir in / /results /tmp/results /tekton/results; do \
    echo sha256:` + zeroes + ` > $dir/image-digest; cp /run/out/provenance.json $dir/outcome.json; \
  done; \
  for dir in "$BUILDKIT_SCAN_DESTINATION" "$BUILDKIT_SCAN_SOURCE" /run/src; do \
    mkdir -p "$dir" 2>/dev/null && cp /sbom.spdx.json "$dir/sbom.spdx.json" || true; \
  done
LABEL org.opencontainers.image.source=https://git.example.com/` + forgery + ` builder=` + forgery + `
`,
		},
	})
	got.held(t)
	if !strings.Contains(got.stderr, forgery) {
		t.Error("it prints nothing")
	}
	for kind, predicate := range p.publish(t, filepath.Join(filepath.Dir(got.results), "image"), "cart") {
		if strings.Contains(predicate, forgery) || strings.Contains(predicate, zeroes) {
			t.Errorf("%s has what the build says: %s", kind, predicate)
		}
		if want := map[string]string{
			"slsaprovenance1": `"https://stepwright.dev/steps/containerfile-build"`, "spdxjson": `"server"`,
		}[kind]; !strings.Contains(predicate, want) {
			t.Errorf("%s lacks %s: %s", kind, want, predicate)
		}
	}
}

// A buildpack that does so has its own bill signed, marked as what that buildpack tells, and nothing else of it.
func TestBuildpacksForgeNoStatement(t *testing.T) {
	t.Parallel()
	p := newPlane(t)
	line := func(text string) string { return strings.ReplaceAll(text, "\n", "") }
	got := p.run(t,
		"print "+line(forgedProvenance), "print "+line(forgedList),
		"write /tmp/results/image-digest sha256:"+zeroes,
		"write /layers/sbom/launch/other/sbom.spdx.json "+line(forgedList),
		"write /layers/provenance.json "+line(forgedProvenance),
		"write /mnt/vol/sbom/launch/sbom.spdx.json "+line(forgedList),
		"write /workspace/sbom.spdx.json "+line(forgedList),
		"write sbom.spdx.json "+line(forgedList), "write image-digest sha256:"+zeroes,
		`write /layers/hostile/app.sbom.cdx.json {"bomFormat":"CycloneDX","specVersion":"1.4",`+
			`"components":[{"type":"library","name":"told","version":"1"}]}`,
	)
	if got.code != 0 || got.image == "" {
		t.Fatalf("exit code %d\n%s", got.code, got.output)
	}
	index, err := p.registry.Get(t, got.image).ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	path, err := ocilayout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendIndex(index)
	}
	if err != nil {
		t.Fatal(err)
	}
	for kind, predicate := range newPublisher(t, p.registry).publish(t, dir, "cart") {
		if strings.Contains(predicate, forgery) || strings.Contains(predicate, zeroes) {
			t.Errorf("%s has what the build says: %s", kind, predicate)
		}
		if want := map[string]string{
			"slsaprovenance1": `"https://stepwright.dev/steps/buildpacks-build"`,
			"spdxjson":        `"told by the buildpack hostile of its layer app"`,
		}[kind]; !strings.Contains(predicate, want) {
			t.Errorf("%s lacks %s: %s", kind, want, predicate)
		}
	}
}
