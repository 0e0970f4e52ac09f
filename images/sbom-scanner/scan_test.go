package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

// installed are the files of a file system of Debian with two of its packages and one of Node.
var installed = map[string]string{
	"etc/os-release": "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
	"var/lib/dpkg/status": "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc\n" +
		"Version: 2.36-9\nMaintainer: x\n\n" +
		"Package: busybox\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.35.0-4\nDepends: libc6\n",
	"app/node_modules/left-pad/package.json": `{"name":"left-pad","version":"1.3.0","license":"WTFPL"}`,
	"app/package-lock.json": `{"name":"x","lockfileVersion":2,"packages":{"node_modules/absent":` +
		`{"version":"9.9.9"}}}`,
}

// fileSystem makes a folder of files below one, and returns it.
func fileSystem(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read reads a list, and returns what it says of packages as name, version and package URL.
func read(t *testing.T, path string) (*spdx.Document, []string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list statement
	if err := json.Unmarshal(raw, &list); err != nil || list.PredicateType != predicateType {
		t.Fatalf("%v, %q", err, list.PredicateType)
	}
	document, err := spdxjson.Read(bytes.NewReader(list.Predicate))
	if err != nil {
		t.Fatal(err)
	}
	var packages []string
	for _, p := range document.Packages {
		for _, ref := range p.PackageExternalReferences {
			if ref.RefType == "purl" {
				packages = append(packages, p.PackageName+" "+p.PackageVersion+" "+ref.Locator)
			}
		}
	}
	slices.Sort(packages)
	return document, packages
}

func TestScan(t *testing.T) {
	root := t.TempDir()
	core := fileSystem(t, filepath.Join(root, "core", "sbom"), installed)
	extras := filepath.Join(root, "extras")
	fileSystem(t, filepath.Join(extras, "sbom-build"), map[string]string{
		"etc/os-release": "ID=alpine\nVERSION_ID=3.20.0\n",
		"lib/apk/db/installed": "C:Q1p78yvTLG094tHE1+dToJGbmYzQE=\nP:musl\nV:1.2.5-r0\nA:x86_64\n" +
			"T:the musl c library\nL:MIT\no:musl\n\n",
	})
	var lists [2]string
	for i := range lists {
		into := t.TempDir()
		if err := run(t.Context(), variables{
			sourceVariable: core, extrasVariable: extras, destinationVariable: into,
		}.get); err != nil {
			t.Fatal(err)
		}
		document, packages := read(t, filepath.Join(into, "sbom.spdx.json"))
		want := []string{
			"busybox 1:1.35.0-4 pkg:deb/debian/busybox@1%3A1.35.0-4?arch=amd64&distro=debian-12",
			"left-pad 1.3.0 pkg:npm/left-pad@1.3.0",
			"libc6 2.36-9 pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc",
		}
		if !slices.Equal(packages, want) {
			t.Errorf("it lists\n%s\nwant\n%s", strings.Join(packages, "\n"), strings.Join(want, "\n"))
		}
		if document.SPDXVersion != "SPDX-2.3" || document.CreationInfo.Created != noTime ||
			document.DocumentName != "sbom" || !regexp.MustCompile(
			`^https://stepwright\.dev/spdx/[0-9a-f]{64}$`).MatchString(document.DocumentNamespace) {
			t.Errorf("the document is %s, %s, %s", document.DocumentName, document.DocumentNamespace,
				document.CreationInfo.Created)
		}
		if _, packages := read(t, filepath.Join(into, "sbom-build.spdx.json")); len(packages) != 1 ||
			!strings.HasPrefix(packages[0], "musl 1.2.5-r0 pkg:apk/alpine/musl@1.2.5-r0") {
			t.Errorf("the stage has %q", packages)
		}
		raw, err := os.ReadFile(filepath.Join(into, "sbom.spdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(root)) {
			t.Errorf("it tells paths of this machine: %s", raw)
		}
		lists[i] = string(raw)
	}
	if lists[0] != lists[1] {
		t.Errorf("two scans differ:\n%s\n%s", lists[0], lists[1])
	}
}

type variables map[string]string

func (v variables) get(name string) string { return v[name] }

func TestVariables(t *testing.T) {
	empty := t.TempDir()
	for _, test := range []struct {
		name      string
		variables variables
		wrong     bool
	}{
		{"none", nil, true},
		{"no destination", variables{sourceVariable: empty}, true},
		{"no source", variables{destinationVariable: empty}, true},
		{"a source that is not there", variables{sourceVariable: empty + "/x", destinationVariable: empty}, true},
		{"extras that are not there", variables{
			sourceVariable: empty, destinationVariable: empty, extrasVariable: empty + "/x",
		}, false},
	} {
		if err := run(t.Context(), test.variables.get); (err != nil) != test.wrong {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
