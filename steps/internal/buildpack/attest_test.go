package buildpack

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	spdxjson "github.com/spdx/tools-golang/json"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/stepwright/stepwright/steps/internal/attestation"
)

// inLayout is what a build has left.
type inLayout struct {
	root       v1.Hash
	image      v1.Image
	statements []*intoto.Statement
	raw        [][]byte // of the statements
}

// layoutIn reads the layout in a workspace, in the form in which BuildKit leaves one.
func layoutIn(t *testing.T, workspace string) (b inLayout) {
	t.Helper()
	index, err := ocilayout.ImageIndexFromPath(filepath.Join(workspace, "image"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil || len(top.Manifests) != 1 {
		t.Fatalf("%v: %v", top, err)
	}
	b.root = top.Manifests[0].Digest
	if !top.Manifests[0].MediaType.IsIndex() {
		if b.image, err = index.Image(b.root); err != nil {
			t.Fatal(err)
		}
		return b
	}
	nested, err := index.ImageIndex(b.root)
	if err != nil {
		t.Fatal(err)
	}
	both, err := nested.IndexManifest()
	if err != nil || len(both.Manifests) != 2 {
		t.Fatalf("%v: %v", both, err)
	}
	if b.image, err = nested.Image(both.Manifests[0].Digest); err != nil {
		t.Fatal(err)
	}
	if p := both.Manifests[0].Platform; p.OS != "linux" || p.Architecture != runtime.GOARCH {
		t.Errorf("the image is for %v", p)
	}
	beside := both.Manifests[1]
	if beside.Annotations["vnd.docker.reference.type"] != "attestation-manifest" ||
		beside.Annotations["vnd.docker.reference.digest"] != both.Manifests[0].Digest.String() {
		t.Errorf("the attestations are %v", beside)
	}
	attestations, err := nested.Image(beside.Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := attestations.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		raw, err := os.ReadFile(filepath.Join(workspace, "image", "blobs", "sha256", layer.Digest.Hex))
		if err != nil {
			t.Fatal(err)
		}
		statement := &intoto.Statement{}
		if err := protojson.Unmarshal(raw, statement); err != nil {
			t.Fatal(err)
		}
		if err := statement.Validate(); err != nil {
			t.Error(err)
		}
		if len(statement.Subject) != 1 || statement.Subject[0].Digest["sha256"] != both.Manifests[0].Digest.Hex {
			t.Errorf("it is about %v", statement.Subject)
		}
		b.statements, b.raw = append(b.statements, statement), append(b.raw, raw)
	}
	return b
}

// provenance is the predicate of SLSA's provenance; nil when there is none.
func (b inLayout) provenance(t *testing.T) *slsa.Provenance {
	t.Helper()
	for _, statement := range b.statements {
		if statement.PredicateType == attestation.Provenance {
			provenance := &slsa.Provenance{}
			if err := protojson.Unmarshal([]byte(mustJSON(t, statement.Predicate)), provenance); err != nil {
				t.Fatal(err)
			}
			return provenance
		}
	}
	return nil
}

// bills are the packages of each SBOM, by name, with what is said of them.
func (b inLayout) bills(t *testing.T) (all []map[string]string) {
	t.Helper()
	for _, statement := range b.statements {
		if statement.PredicateType != "https://spdx.dev/Document" {
			continue
		}
		document, err := spdxjson.Read(strings.NewReader(mustJSON(t, statement.Predicate)))
		if err != nil {
			t.Fatal(err)
		}
		packages := map[string]string{}
		for _, p := range document.Packages {
			packages[p.PackageName] = p.PackageSourceInfo
		}
		all = append(all, packages)
	}
	return all
}

func decode(t *testing.T, value, into any) {
	t.Helper()
	raw, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The provenance of an image says what was asked for, and what was used.
func TestProvenance(t *testing.T) {
	t.Parallel()
	registry, run := newRegistry(t)
	runDigest, err := run.Digest()
	if err != nil {
		t.Fatal(err)
	}
	const builder = "builders.example.com/test:1@sha256:" +
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, mode := range []string{"min", "max", "none"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			dir := newWorkspace(t, map[string]string{"app/greeting.txt": "hello\n"})
			p := newPod(t, registry, dir, "PROVENANCE", mode, "SBOM", "none", "BUILDER_IMAGE", builder,
				"APP_PATH", "app", "BUILD_ENV", `[{"name":"SHOW","value":"value-9"}]`,
				"NAMESPACE_NAME", "acme", "PROJECT_NAME", "shop", "COMPONENT_NAME", "greeter")
			e := builds(t, p)
			built := layoutIn(t, dir)
			provenance := built.provenance(t)
			if mode == "none" {
				if digest, err := built.image.Digest(); err != nil || digest != built.root || provenance != nil {
					t.Errorf("the root is %s, and the image %s, %v", built.root, digest, err)
				}
				publish(t, registry, dir, e)
				return
			}
			if err := provenance.Validate(); err != nil {
				t.Error(err)
			}
			definition := provenance.BuildDefinition
			if provenance.RunDetails.Builder.Id != "https://stepwright.dev/steps/buildpacks-build" ||
				provenance.RunDetails.Builder.Version["stepwright"] != attestation.Version() ||
				definition.BuildType != "https://stepwright.dev/build-types/buildpacks/v1" {
				t.Errorf("builder %+v, build type %s", provenance.RunDetails.Builder, definition.BuildType)
			}
			var asked attestation.Parameters
			decode(t, definition.ExternalParameters, &asked)
			if asked.Repository.URL != "https://git.example.com/acme/greeter.git" ||
				asked.Repository.AppPath != "app" || asked.Repository.Revision.Commit != strings.Repeat("ab", 20) ||
				*asked.Component != (attestation.Component{Namespace: "acme", Project: "shop", Name: "greeter"}) ||
				len(asked.BuildEnv) != 1 || asked.BuildEnv[0].Name != "SHOW" {
				t.Errorf("it was asked for %+v", asked)
			}
			if told := bytes.Contains(built.raw[0], []byte("value-9")); told != (mode == "max") {
				t.Errorf("the value of a variable is told: %t", told)
			}
			var used []string
			for _, r := range definition.ResolvedDependencies {
				used = append(used, r.Uri+" "+r.Digest["sha256"]+r.Digest["gitCommit"]+" "+
					toldBy(r.Annotations))
			}
			architecture := "linux%2F" + runtime.GOARCH
			if want := []string{
				"git+https://git.example.com/acme/greeter.git " + strings.Repeat("ab", 20) + " ",
				"pkg:docker/builders.example.com/test@1?digest=sha256%3A" + builder[len(builder)-64:] + "&platform=" +
					architecture + " " + builder[len(builder)-64:] + " ",
				"pkg:docker/" + registry.Host + "/base/run?digest=sha256%3A" + runDigest.Hex + "&platform=" +
					architecture + " " + runDigest.Hex + " ",
				"urn:cnb:builder:test/certificates@1.0.0  build", "urn:cnb:builder:test/greeter@1.0.0  build",
			}; !slices.Equal(unescaped(used), unescaped(want)) {
				t.Errorf("it used\n%s\nwant\n%s", strings.Join(used, "\n"), strings.Join(want, "\n"))
			}
			if provenance.RunDetails.GetMetadata().GetStartedOn() != nil {
				t.Error("one commit has several digests")
			}
		})
	}
	t.Run("without a commit", func(t *testing.T) {
		t.Parallel()
		before := time.Now().Add(-time.Second)
		dir := newWorkspace(t, greeter)
		if err := os.WriteFile(filepath.Join(dir, "revision.json"), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		builds(t, newPod(t, registry, dir))
		told := layoutIn(t, dir).provenance(t).RunDetails.Metadata
		started, finished := told.GetStartedOn(), told.GetFinishedOn()
		if started == nil || started.AsTime().Before(before) || finished.AsTime().Before(started.AsTime()) {
			t.Errorf("it tells of the time %+v", told)
		}
	})
}

func toldBy(annotations *structpb.Struct) string {
	return annotations.GetFields()["stepwright.dev/told-by"].GetStringValue()
}

// unescaped are texts without the escapes that are a matter of taste in package URLs.
func unescaped(texts []string) (plain []string) {
	for _, text := range texts {
		plain = append(plain, strings.NewReplacer("%3A", ":", "%2F", "/").Replace(text))
	}
	return plain
}

// The SBOM of an image has what buildpacks tell, and says that they do.
func TestSBOM(t *testing.T) {
	t.Parallel()
	const byGreeter = "told by the buildpack test/greeter"
	const forged = `{"bomFormat":"CycloneDX","components":[` +
		`{"type":"library","name":"acme-shop-greeter","version":"9"},` +
		`{"type":"library","name":"urn:cnb:builder:test/greeter@1.0.0"}]}`
	tests := []struct {
		name, mode string
		files      []string
		want       []map[string]string // packages besides the image, its base and buildpacks, of each SBOM
		warns      string
	}{
		{"final", "final", nil, []map[string]string{{"for-launch": byGreeter}}, ""},
		{"all", "all", nil, []map[string]string{{"for-launch": byGreeter}, {"for-build": byGreeter}}, ""},
		{"none", "none", nil, nil, ""},
		{"broken", "final", []string{"launch.txt", "{"}, []map[string]string{{}},
			"The SBOM lacks what cannot be read"},
		{"of terminals", "final", []string{"launch.txt", "\x1b[2J::error::"}, []map[string]string{{}},
			"The SBOM lacks"},
		{"forged", "final", []string{"launch.txt", forged}, []map[string]string{{
			"acme-shop-greeter": byGreeter, "urn:cnb:builder:test/greeter@1.0.0": byGreeter,
		}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			registry, _ := newRegistry(t) // of its own: they push under one tag
			dir := newWorkspace(t, with(test.files...))
			e := builds(t, newPod(t, registry, dir, "SBOM", test.mode))
			bills := layoutIn(t, dir).bills(t)
			if len(bills) != len(test.want) {
				t.Fatalf("there are %d SBOMs", len(bills))
			}
			for i, packages := range bills {
				for name, want := range test.want[i] {
					if packages[name] != want {
						t.Errorf("%s is %q, want %q", name, packages[name], want)
					}
				}
				// The image, its base and three buildpacks.
				if own := 5; len(packages) != own+len(test.want[i]) && test.name != "forged" {
					t.Errorf("it has %d packages: %v", len(packages), packages)
				}
			}
			if !strings.Contains(e.output, test.warns) || test.warns == "" && strings.Contains(e.output, "The SBOM") {
				t.Error(e.output)
			}
			if strings.Contains(e.output, "\x1b[2J") {
				t.Error("the terminal obeys the build")
			}
			publish(t, registry, dir, e)
		})
	}
}

// A build cannot change what is told of it by what it writes where the sealing container looks.
func TestForgedAttestations(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	p := newPod(t, registry, newWorkspace(t, greeter))
	all := p.volumes(t)
	if e := p.build(t, all); e.code != 0 {
		t.Fatalf("exit code %d\n%s", e.code, e.output)
	}
	if e := p.seal(t, all); e.code != 0 {
		t.Fatalf("exit code %d\n%s", e.code, e.output)
	}
	want := layoutIn(t, p.workspace)
	for _, path := range []string{
		"layers/provenance.json", "layers/attestations/x", "handover/provenance.json", "application/provenance.json",
		"layers/sbom/attestation.json", "layers/sbom/launch.spdx.json", "layers/report.toml",
	} {
		file := place(t, filepath.Join(all[strings.Split(path, "/")[0]], path[strings.Index(path, "/"):]))
		if err := os.WriteFile(file, []byte(`{"predicateType":"https://slsa.dev/provenance/v1"}`), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if e := p.seal(t, all); e.code != 0 {
		t.Fatalf("exit code %d\n%s", e.code, e.output)
	}
	got := layoutIn(t, p.workspace)
	if x, y := want.provenance(t), got.provenance(t); !proto.Equal(x, y) {
		t.Errorf("%v\n%v", x, y)
	}
	if x, y := want.bills(t), got.bills(t); mustJSON(t, x) != mustJSON(t, y) {
		t.Errorf("%v\n%v", x, y)
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
