package sbom

import (
	"bytes"
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

var commit = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)

// read reads a list back, and wants every relationship to be between elements that are there.
func read(t *testing.T, raw []byte) v2_3.Document {
	t.Helper()
	var d v2_3.Document
	if err := spdxjson.ReadInto(bytes.NewReader(raw), &d); err != nil {
		t.Fatal(err)
	}
	ids := []string{"DOCUMENT"}
	for _, p := range d.Packages {
		ids = append(ids, string(p.PackageSPDXIdentifier))
	}
	if all := slices.Sorted(slices.Values(ids)); len(slices.Compact(all)) != len(ids) {
		t.Errorf("identifiers are not distinct: %v", ids)
	}
	for _, r := range d.Relationships {
		if !slices.Contains(ids, string(r.RefA.ElementRefID)) || !slices.Contains(ids, string(r.RefB.ElementRefID)) {
			t.Errorf("%v %s %v: one is not there", r.RefA, r.Relationship, r.RefB)
		}
	}
	return d
}

func locators(d v2_3.Document) []string {
	var all []string
	for _, p := range d.Packages {
		for _, r := range p.PackageExternalReferences {
			all = append(all, r.Locator)
		}
	}
	return all
}

// built is a step as releases have it, without symbols.
func built(t *testing.T) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a step")
	}
	file := filepath.Join(t.TempDir(), "step")
	cmd := exec.CommandContext(
		t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file,
		"../../../steps/generate-workload-cr",
	)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOfProgram(t *testing.T) {
	content := built(t)
	raw, err := OfProgram("tool_linux_amd64", content, "1.2.3", commit)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OfProgram("tool_linux_amd64", content, "1.2.3", commit)
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("the second time differs, error %v", err)
	}
	d := read(t, raw)
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, "pkg:golang/"+strings.ToLower(m.Path)+"@"+m.Version)
	}
	got := locators(d)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || len(want) < 2 {
		t.Errorf("modules are %v, want %v", got, want)
	}
	if d.CreationInfo.Created != "2026-03-04T05:06:07Z" || d.Packages[0].PackageVersion != "1.2.3" {
		t.Errorf("created %s, version %s", d.CreationInfo.Created, d.Packages[0].PackageVersion)
	}
	if _, err := OfProgram("text", []byte("text"), "1.2.3", commit); err == nil ||
		!strings.Contains(err.Error(), "text: ") {
		t.Errorf("of a text: %v", err)
	}
}

func TestOfImage(t *testing.T) {
	program := built(t)
	raw, err := OfImage(Subject{"step_linux_arm64", "1.2.3", strings.Repeat("ab", 32), commit},
		[]Program{{"step", program}, {"runc", program}},
		[]Package{{"ca-certificates", "20230311+deb12u1", "all"}})
	if err != nil {
		t.Fatal(err)
	}
	d := read(t, raw)
	if got := locators(d); !slices.Contains(got, "pkg:deb/debian/ca-certificates@20230311%2Bdeb12u1?arch=all") {
		t.Errorf("packages are %v", got)
	}
	contained := 0
	for _, r := range d.Relationships {
		if r.Relationship == "CONTAINS" {
			contained++
		}
	}
	if contained != 3 {
		t.Errorf("the image contains %d, want two programs and a package", contained)
	}
}
