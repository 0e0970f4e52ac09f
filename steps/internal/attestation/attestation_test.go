package attestation

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/moby/buildkit/util/purl"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

const digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// An image has the URI that BuildKit gives it.
func TestImage(t *testing.T) {
	t.Parallel()
	for _, reference := range []string{
		"busybox:1", "busybox", "docker.io/library/busybox:1", "docker.io/paketobuildpacks/run:1.2",
		"registry.example.com/team/app:v1", "localhost:5000/a/b/c:v1", "gcr.io/buildpacks/builder@" + digest,
		"registry.example.com:8443/team/app:v1@" + digest, "docker.io/paketobuildpacks/run:1.2@" + digest,
		"busybox@" + digest,
	} {
		got, err := Image(reference, amd64)
		if err != nil {
			t.Errorf("%s: %v", reference, err)
			continue
		}
		want, err := purl.RefToPURL("docker", reference, &ocispec.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil {
			t.Fatal(err)
		}
		if got.URI != want {
			t.Errorf("%s is %s, BuildKit has %s", reference, got.URI, want)
		}
		if has := got.Digest["sha256"] != ""; has != strings.Contains(reference, "@") {
			t.Errorf("%s has digests %v", reference, got.Digest)
		}
	}
	if _, err := Image("no reference", amd64); err == nil {
		t.Error("no reference is taken for one")
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	commit := strings.Repeat("ab", 20)
	for _, test := range []struct{ name, url, commit, want string }{
		{"https", "https://git.example.com/a/b.git", commit, "git+https://git.example.com/a/b.git"},
		{"ssh", "ssh://git@git.example.com:7999/a/b.git", commit, "git+ssh://git@git.example.com:7999/a/b.git"},
		{"short form", "git@git.example.com:a/b.git", commit, "git+ssh://git@git.example.com/a/b.git"},
		{"SHA-256", "https://git.example.com/a", strings.Repeat("ab", 32), "git+https://git.example.com/a"},
		{"no commit", "https://git.example.com/a", "", ""},
		{"nothing known", "", "", ""},
	} {
		sources := Source(workspace.Revision{URL: test.url, Commit: test.commit})
		if test.want == "" {
			if sources != nil {
				t.Errorf("%s: %v", test.name, sources)
			}
			continue
		}
		digests := sources[0].Digest
		if sources[0].URI != test.want || digests["gitCommit"] != test.commit ||
			(digests["sha1"] == test.commit) != (len(test.commit) == 40) {
			t.Errorf("%s: %v", test.name, sources)
		}
	}
}

// Values are told in the mode max only.
func TestVariables(t *testing.T) {
	t.Parallel()
	for mode, want := range map[string]string{
		ProvenanceMin: `[{"name":"A"},{"name":"B"}]`,
		ProvenanceMax: `[{"name":"A","value":"1"},{"name":"B","value":""}]`,
	} {
		raw, err := json.Marshal(Variables([]step.NameValue{{Name: "A", Value: "1"}, {Name: "B"}}, mode))
		if err != nil || string(raw) != want {
			t.Errorf("%s: %s, %v", mode, raw, err)
		}
	}
}

// The public libraries read what is attached.
func TestAttach(t *testing.T) {
	t.Parallel()
	layout := imagelayout.Dir(t.TempDir())
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	list := List{Name: "acme_shop", Image: hash, Made: time.Unix(0, 0)}
	document, err := list.Document()
	if err != nil {
		t.Fatal(err)
	}
	image := v1.Descriptor{MediaType: types.OCIManifestSchema1, Digest: hash, Size: 7, Platform: &amd64}
	root, err := Attach(
		layout, image, Predicate{SPDX, document},
		Predicate{Provenance, SLSA{RunDetails: RunDetails{Builder: BuilderOf("x<y")}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var index v1.IndexManifest
	var manifest v1.Manifest
	if err := layout.ReadJSON(root.Digest, &index); err != nil {
		t.Fatal(err)
	}
	attestations := index.Manifests[1]
	if err := layout.ReadJSON(attestations.Digest, &manifest); err != nil {
		t.Fatal(err)
	}
	marks := attestations.Annotations
	if marks[imagelayout.ReferenceType] != imagelayout.AttestationManifest ||
		marks[imagelayout.ReferenceDigest] != digest || attestations.Platform.OS != "unknown" {
		t.Errorf("the attestations are %+v", attestations)
	}
	for i, layer := range manifest.Layers {
		raw, err := os.ReadFile(layout.Blob(layer.Digest))
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
		want := []string{"https://spdx.dev/Document", "https://slsa.dev/provenance/v1"}[i]
		if statement.PredicateType != want || layer.Annotations[imagelayout.PredicateType] != want ||
			layer.MediaType != "application/vnd.in-toto+json" ||
			len(statement.Subject) != 1 || statement.Subject[0].Digest["sha256"] != hash.Hex {
			t.Errorf("statement %d: %+v, %s", i, layer, raw)
		}
		if i == 1 && !bytes.Contains(raw, []byte("x<y")) {
			t.Errorf("characters are escaped: %s", raw)
		}
	}
}

const (
	bySPDX = `{"spdxVersion":"SPDX-2.2","packages":[
  {"SPDXID":"SPDXRef-root","name":"/layers/x"},
  {"SPDXID":"SPDXRef-a","name":"left-pad","versionInfo":"1.3.0","licenseDeclared":"LicenseRef-x OR MIT",
   "downloadLocation":"https://registry.npmjs.org/left-pad","checksums":[{"algorithm":"SHA1","checksumValue":"` +
		`0123456789012345678901234567890123456789"},{"algorithm":"SHA256","checksumValue":"short"}],
   "externalRefs":[{"referenceType":"purl","referenceLocator":"pkg:npm/left-pad@1.3.0"},
                   {"referenceType":"cpe23Type","referenceLocator":"cpe:2.3:a:left-pad:left-pad:1.3.0"},
                   {"referenceType":"website","referenceLocator":"https://example.com"}]}],
 "hasExtractedLicensingInfos":[{"licenseId":"LicenseRef-x","extractedText":"do what you like"}],
  "relationships":[
  {"spdxElementId":"SPDXRef-DOCUMENT","relationshipType":"DESCRIBES","relatedSpdxElement":"SPDXRef-root"}]}`
	byCycloneDX = `{"bomFormat":"CycloneDX","specVersion":"1.5","components":[
  {"type":"library","group":"org.acme","name":"shop","version":"2","purl":"pkg:maven/org.acme/shop@2",
   "licenses":[{"license":{"id":"Apache-2.0"}},{"license":{"name":"Acme's own"}}],
   "hashes":[{"alg":"SHA-256","content":"` + "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" + `"}],
   "components":[{"type":"library","name":"inner","version":"1","licenses":[{"expression":"MIT AND (MIT"}]}]},
  {"type":"file","name":"/etc/passwd"},{"type":"library","name":""}]}`
	bySyft = `{"schema":{"version":"16","url":"https://example.com"},"artifacts":[
  {"name":"left-pad","version":"1.3.0","purl":"pkg:npm/left-pad@1.3.0",
   "licenses":[{"value":"MIT","spdxExpression":"MIT"}],"cpes":[{"cpe":"cpe:2.3:a:other:left-pad:1.3.0","source":"x"}]},
  {"name":"old","version":"0","licenses":["BSD-3-Clause","Ruby"],"cpes":["cpe:2.3:a:old:old:0"]}]}`
)

// bills are what buildpacks leave.
func bills(files ...string) fstest.MapFS {
	all := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		all[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return all
}

func newList(t testing.TB) *List {
	t.Helper()
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	base, err := Image("registry.example.com/run@"+digest, amd64)
	if err != nil {
		t.Fatal(err)
	}
	return &List{
		Name: "acme_shop", Image: hash, Made: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Base: base,
		Comment: "as they tell",
	}
}

// Who writes a bill into the folder of a buildpack that did not build tells nothing.
func TestBillOfNoBuildpack(t *testing.T) {
	t.Parallel()
	list := newList(t)
	list.Buildpacks = []Resource{{URI: "urn:cnb:builder:acme/node@1.2.3"}}
	err := list.Read(bills("acme_node/sbom.syft.json", bySyft, "acme_nodes/sbom.cdx.json", byCycloneDX,
		"acme_ruby/gems/sbom.cdx.json", byCycloneDX))
	if err == nil || !strings.Contains(err.Error(), "acme_nodes: ") || !strings.Contains(err.Error(), "acme_ruby: ") {
		t.Errorf("got %v", err)
	}
	document, err := list.Document()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range document.Packages {
		if p.Name == "org.acme/shop" || p.Name == "inner" {
			t.Errorf("%s is %s", p.Name, p.SourceInfo)
		}
	}
}

// A document of bills in all three forms is one that SPDX's own library reads.
func TestList(t *testing.T) {
	t.Parallel()
	list := newList(t)
	for _, id := range []string{"node", "java", "ruby"} {
		list.Buildpacks = append(list.Buildpacks, Resource{URI: "urn:cnb:builder:acme/" + id + "@1.2.3"})
	}
	if err := list.Read(bills(
		"acme_node/modules/sbom.spdx.json", bySPDX, "acme_java/sbom.cdx.json", byCycloneDX,
		"acme_ruby/gems/sbom.syft.json", bySyft,
		"acme_node/modules/sbom.cdx.json", strings.ReplaceAll(byCycloneDX, "shop", "another-form-of-the-same"),
	)); err != nil {
		t.Fatal(err)
	}
	document, err := list.Document()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	read, err := spdxjson.Read(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	if read.CreationInfo.Created != "2026-03-04T05:06:07Z" || read.CreationInfo.CreatorComment != "as they tell" ||
		read.SPDXVersion != "SPDX-2.3" {
		t.Errorf("the document is %+v, %+v", read, read.CreationInfo)
	}
	ids, packages := map[string]bool{}, map[string]*spdx.Package{}
	for _, p := range read.Packages {
		if id := string(p.PackageSPDXIdentifier); ids[id] {
			t.Errorf("%s is there twice", id)
		} else {
			ids[id] = true
		}
		packages[p.PackageName] = p
	}
	for _, r := range read.Relationships {
		for _, end := range []string{string(r.RefA.ElementRefID), string(r.RefB.ElementRefID)} {
			if !ids[end] && end != "DOCUMENT" {
				t.Errorf("%s %s %s: there is no such element", r.RefA, r.Relationship, r.RefB)
			}
		}
	}
	for _, absent := range []string{"/layers/x", "/etc/passwd", "org.acme/another-form-of-the-same"} {
		if packages[absent] != nil {
			t.Errorf("%s is listed", absent)
		}
	}
	license := func(text string) string {
		for _, other := range read.OtherLicenses {
			if other.ExtractedText == text {
				return other.LicenseIdentifier
			}
		}
		t.Errorf("the license %q is not there", text)
		return ""
	}
	sorted := []string{"Apache-2.0", license("Acme's own")}
	slices.Sort(sorted)
	for _, test := range []struct{ name, version, license, source string }{
		{"left-pad", "1.3.0", "MIT", "told by the buildpack acme/node of its layer modules; " +
			"told by the buildpack acme/ruby of its layer gems"},
		{"org.acme/shop", "2", strings.Join(sorted, " AND "), "told by the buildpack acme/java"},
		{"inner", "1", license("MIT AND (MIT"), "told by the buildpack acme/java"},
		{"old", "0", "BSD-3-Clause AND Ruby", "told by the buildpack acme/ruby of its layer gems"},
	} {
		p := packages[test.name]
		if p == nil {
			t.Errorf("%s is not listed", test.name)
			continue
		}
		if p.PackageVersion != test.version || p.PackageLicenseDeclared != test.license ||
			p.PackageSourceInfo != test.source {
			t.Errorf("%s: %q, %q, %q", test.name, p.PackageVersion, p.PackageLicenseDeclared, p.PackageSourceInfo)
		}
	}
	var refs []string
	for _, ref := range packages["left-pad"].PackageExternalReferences {
		refs = append(refs, ref.Locator)
	}
	if want := []string{
		"cpe:2.3:a:left-pad:left-pad:1.3.0", "cpe:2.3:a:other:left-pad:1.3.0", "pkg:npm/left-pad@1.3.0",
	}; !slices.Equal(refs, want) {
		t.Errorf("left-pad is called %q", refs)
	}
	if sums := packages["left-pad"].PackageChecksums; len(sums) != 1 || sums[0].Algorithm != "SHA1" {
		t.Errorf("left-pad has the checksums %v", sums)
	}
	if image := packages["acme_shop"]; image.PackageChecksums[0].Value != list.Image.Hex ||
		image.PrimaryPackagePurpose != "CONTAINER" {
		t.Errorf("the image is %+v", image)
	}
}

// The same bills give the same bytes, and others other ones, under another namespace.
func TestListIsDeterministic(t *testing.T) {
	t.Parallel()
	text := func(files ...string) (string, string) {
		list := newList(t)
		if err := list.Read(bills(files...)); err != nil {
			t.Fatal(err)
		}
		document, err := list.Document()
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw), document.DocumentNamespace
	}
	first, namespace := text("a/sbom.cdx.json", byCycloneDX, "b/sbom.syft.json", bySyft)
	for range 5 {
		if again, _ := text("b/sbom.syft.json", bySyft, "a/sbom.cdx.json", byCycloneDX); again != first {
			t.Fatalf("%s\n%s", first, again)
		}
	}
	if _, other := text("a/sbom.cdx.json", byCycloneDX); other == namespace {
		t.Error("two documents have one namespace")
	}
}

// What is no bill of materials is left out, and told of; what else there is counts.
func TestBrokenBills(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, file, content string }{
		{"no JSON", "sbom.cdx.json", "x"},
		{"nothing", "sbom.syft.json", ""},
		{"another form", "sbom.spdx.json", byCycloneDX},
		{"another type", "sbom.cdx.json", `{"bomFormat":"CycloneDX","components":{"name":"x"}}`},
		{"nested without end", "sbom.cdx.json", `{"bomFormat":"CycloneDX","components":` +
			strings.Repeat(`[{"components":`, 20_000)},
		{"another version", "sbom.spdx.json", `{"spdxVersion":"SPDX-3.0"}`},
	} {
		list := newList(t)
		err := list.Read(bills("a/"+test.file, test.content, "b/sbom.syft.json", bySyft))
		if err == nil || !strings.Contains(err.Error(), "a/"+test.file) {
			t.Errorf("%s: %v", test.name, err)
		}
		if list.Len() != 2 {
			t.Errorf("%s: %d packages", test.name, list.Len())
		}
	}
	// Another form of the same is taken then.
	list := newList(t)
	if err := list.Read(bills("a/sbom.spdx.json", "x", "a/sbom.syft.json", bySyft)); err == nil || list.Len() != 2 {
		t.Errorf("%d packages, %v", list.Len(), err)
	}
}

func TestLicenses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text string
		own  bool // whether it is a name of its own
		want string
	}{
		{"MIT", false, "MIT"},
		{"MIT OR Apache-2.0", false, "MIT OR Apache-2.0"},
		{"GPL-2.0+ WITH Classpath-exception-2.0", false, "GPL-2.0+ WITH Classpath-exception-2.0"},
		{" ( MIT AND  ISC ) OR 0BSD", false, "(MIT AND ISC) OR 0BSD"},
		{"", false, "NOASSERTION"}, {"NONE", false, "NOASSERTION"}, {"NOASSERTION", false, "NOASSERTION"},
		{"Apache 2.0", true, ""}, {"MIT OR", true, ""}, {"OR MIT", true, ""}, {"MIT)", true, ""}, {"(MIT", true, ""},
		{"MIT ISC", true, ""}, {"()", true, ""}, {")MIT(", true, ""}, {"MIT/X11", true, ""}, {"a\nb", true, ""},
		{"DocumentRef-x:LicenseRef-y", true, ""}, {"LicenseRef-unknown", true, ""},
	} {
		var list List
		got := list.license(test.text, nil)
		if test.own {
			if !strings.HasPrefix(got, "LicenseRef-") || len(list.licenses) != 1 {
				t.Errorf("%q is %q, %v", test.text, got, list.licenses)
			}
		} else if got != test.want || len(list.licenses) != 0 {
			t.Errorf("%q is %q, %v", test.text, got, list.licenses)
		}
	}
}
