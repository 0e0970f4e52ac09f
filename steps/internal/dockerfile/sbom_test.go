package dockerfile

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	spdxjson "github.com/spdx/tools-golang/json"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// scannerScript scans as BuildKit's protocol says: it lists the files in /packages of a file system, and the network
// interfaces that it sees. Like other scanners, it writes a clock and something random.
const scannerScript = `
scan() {
	list= i=0
	for name in $(ls $1/packages 2>/dev/null) $(sed -n 's/:.*//p' /proc/net/dev); do
		i=$((i+1)) list="$list,{\"SPDXID\":\"SPDXRef-$i\",\"name\":\"$name\",\"downloadLocation\":\"NOASSERTION\"}"
	done
	printf '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document",
		"predicate":{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"%s",
		"documentNamespace":"https://example.com/%s","creationInfo":{"created":"%s","creators":["Tool: script"]},
		"packages":[%s]}}' \
		"$(basename $1)" "$(cat /proc/sys/kernel/random/uuid)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${list#,}" \
		> "$BUILDKIT_SCAN_DESTINATION/$(basename $1).spdx.json"
}
scan "$BUILDKIT_SCAN_SOURCE"
for extra in ${BUILDKIT_SCAN_SOURCE_EXTRAS:+$BUILDKIT_SCAN_SOURCE_EXTRAS/*}; do scan "$extra"; done
`

// pushScanner puts a scanner into a registry and returns its reference.
func pushScanner(t *testing.T, r *registrytest.Registry) string {
	t.Helper()
	image := must(busybox())
	config := must(image.ConfigFile()).DeepCopy()
	config.Config.Entrypoint, config.Config.Cmd = []string{"sh", "-e", "-c", scannerScript}, nil
	image = must(mutate.ConfigFile(image, config))
	r.Push(t, "stepwright/scanner:1", image)
	return "docker.io/stepwright/scanner@" + must(image.Digest()).String()
}

// lists are the names of packages in each SBOM of the image in a layout, by the document's name.
func lists(t *testing.T, dir string) map[string][]string {
	t.Helper()
	layout := imagelayout.Dir(dir)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var top, index v1.IndexManifest
	var manifest v1.Manifest
	check(layout.ReadIndex(&top))
	if !top.Manifests[0].MediaType.IsIndex() {
		return nil
	}
	check(layout.ReadJSON(top.Manifests[0].Digest, &index))
	check(layout.ReadJSON(index.Manifests[1].Digest, &manifest))
	all := map[string][]string{}
	for _, layer := range manifest.Layers {
		if layer.Annotations[imagelayout.PredicateType] != attestation.SPDX {
			continue
		}
		var statement struct {
			Subject   []attestation.Subject
			Predicate json.RawMessage
		}
		check(layout.ReadJSON(layer.Digest, &statement))
		if len(statement.Subject) != 1 || statement.Subject[0].Digest["sha256"] != index.Manifests[0].Digest.Hex {
			t.Errorf("it is about %v", statement.Subject)
		}
		document := must(spdxjson.Read(strings.NewReader(string(statement.Predicate))))
		if document.CreationInfo.Created != commitTime.Format("2006-01-02T15:04:05Z07:00") ||
			!strings.HasPrefix(document.DocumentNamespace, "https://stepwright.dev/spdx/") {
			t.Errorf("the document is of %s, %s", document.CreationInfo.Created, document.DocumentNamespace)
		}
		names := []string{}
		for _, p := range document.Packages {
			names = append(names, strings.TrimSpace(p.PackageName))
		}
		all[document.DocumentName] = names
	}
	return all
}

// A scanner lists what is in the image, and in stages when it is asked for, without a network. One commit has one
// digest.
func TestSBOM(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	scanner := pushScanner(t, r)
	files := map[string]string{"Dockerfile": "FROM busybox:1 AS tools\n" +
		"RUN mkdir /packages && touch /packages/compiler\nFROM busybox:1\n" +
		"RUN mkdir /packages && touch /packages/server\nCOPY --from=tools /packages/compiler /tool\n"}
	for _, test := range []struct {
		name, sbom, provenance string
		want                   map[string][]string
	}{
		{"final", "final", "min", map[string][]string{"acme_shop": {"server", "lo"}}},
		{"all", "all", "max", map[string][]string{"acme_shop": {"server", "lo"}, "sbom-tools": {"compiler", "lo"}}},
		{"alone", "final", "none", map[string][]string{"acme_shop": {"server", "lo"}}},
		{"none", "none", "none", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var digests []string
			for range 2 {
				in := parameters(project(t, files), r)
				in.SBOM, in.SBOMScanner, in.Provenance = test.sbom, scanner, test.provenance
				in.ImageName = "acme_shop"
				b := succeedWith(t, in)
				digests = append(digests, b.results["image-digest"])
				got := lists(t, in.Workspace.Image())
				if len(got) != len(test.want) {
					t.Errorf("it lists %v, want %v", got, test.want)
				}
				for name, want := range test.want {
					if !slices.Equal(got[name], want) {
						t.Errorf("%s lists %v, want %v", name, got[name], want)
					}
				}
				if strings.Contains(b.results["base-images"], "scanner") {
					t.Errorf("the scanner is a base image: %s", b.results["base-images"])
				}
				whole(t, in.Workspace.Image())
			}
			if digests[0] != digests[1] {
				t.Errorf("the digests are %v", digests)
			}
		})
	}
	t.Run("no scanner", func(t *testing.T) {
		t.Parallel()
		in := parameters(project(t, files), r)
		in.SBOM = "final"
		fail(t, in, outcome.InvalidParameters, "sbom-scanner")
	})
}

// succeedWith runs the step, which must end well.
func succeedWith(t *testing.T, in Parameters) ending {
	t.Helper()
	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatalf("%v\n%s", end.err, end.output)
	}
	return end
}

// whole checks that a layout has the blobs that its manifests name, and no others.
func whole(t *testing.T, dir string) {
	t.Helper()
	image, err := imagelayout.Open(t.Context(), dir, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	named := map[string]bool{}
	for _, manifest := range image.Manifests {
		named[manifest.Digest.Hex] = true
	}
	for _, blob := range image.Blobs {
		named[blob.Digest.Hex] = true
		if err := image.Check(t.Context(), blob); err != nil && !image.Absent[blob.Digest] {
			t.Error(err)
		}
	}
	for _, entry := range must(os.ReadDir(filepath.Join(dir, "blobs", "sha256"))) {
		if !named[entry.Name()] {
			t.Errorf("nothing names the blob %s", entry.Name())
		}
	}
}

// The line that has stages scanned is no line of the Dockerfile's: what is said of a line names the right one.
func TestLinesOfScannedDockerfiles(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"FROM a\nRUN b\nFROM c\nRUN d\n", "# escape=`\n\nARG x\n# the first\nfrom a AS b\nRUN c\nFROM b", "FROM a",
	} {
		for _, env := range [][]string{nil, {"A", "1"}, {"A", "1\n2", "B", "3"}} {
			in := parameters(project(t, map[string]string{"Dockerfile": text}), nil)
			in.SBOM, in.BuildEnv = "all", named(env...)
			src, err := findSource(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(src.text), "\n")
			own := strings.Split(text, "\n")
			seen := 0
			for i, line := range lines {
				if strings.HasPrefix(line, "ENV A") || strings.HasPrefix(line, "ARG STEPWRIGHT_") {
					continue
				}
				if line == "ARG BUILDKIT_SBOM_SCAN_STAGE=true" {
					seen++
					continue
				}
				if original := src.lines.original(i + 1); line != "" && own[original-1] != line {
					t.Errorf("line %d, %q, is line %d, %q", i+1, line, original, own[original-1])
				}
			}
			if seen != 1 || !strings.Contains(string(src.text), "BUILDKIT_SBOM_SCAN_STAGE=true\n"+
				strings.TrimRight(own[slices.IndexFunc(own, isFrom)], "\n")) {
				t.Errorf("stages are not scanned:\n%s", src.text)
			}
		}
	}
}

func isFrom(line string) bool { return strings.HasPrefix(strings.ToUpper(line), "FROM ") }

// With a cache, a scan changes neither which instructions run nor the digest, and publish-image takes what it leaves.
func TestSBOMWithACache(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	scanner := pushScanner(t, c.Registry)
	c.change = func(in *Parameters) { in.SBOM, in.SBOMScanner = "final", scanner }
	first := c.run(t, stages("one"))
	first.wants(t, "", "dependencies", "made", "static")
	second := c.run(t, stages("one"))
	second.wants(t, first.digest)
	third := c.run(t, stages("two"))
	third.wants(t, "", "made")
	c.change = func(in *Parameters) { in.SBOM, in.SBOMScanner, in.Cache = "final", scanner, "disabled" }
	if cold := c.build(t, stages("two")); cold.digest != third.digest {
		t.Errorf("with a cache the digest is %s, and without one %s", third.digest, cold.digest)
	}
}
