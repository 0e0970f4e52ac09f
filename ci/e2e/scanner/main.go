// Command scanner is a check of the tests' own for the component scan-gate. It reads the layers of an OCI image layout,
// finds the packages that a file there lists, and tells by SARIF which of them have vulnerabilities that it knows. It
// prints what it could reach, too, which should be little.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// packagesFile is the file of an image that lists packages: in each line a name and a version.
const packagesFile = "opt/packages"

// known are the vulnerabilities, by name and version of a package.
var known = map[string]struct{ id, score string }{
	"left-pad 1.0.0": {"CVE-2024-0001", "9.8"},
	"zlib 1.2.11":    {"CVE-2024-0002", "5.3"},
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: scanner LAYOUT REPORT")
		os.Exit(64)
	}
	if err := scan(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "scanner:", err)
		os.Exit(1)
	}
}

func scan(layout, report string) error {
	reach()
	layers, err := layersOf(layout)
	if err != nil {
		return err
	}
	var rules, results []any
	for _, layer := range layers {
		packages, err := packagesOf(layer)
		if err != nil {
			return err
		}
		for _, p := range packages {
			if v, found := known[p]; found {
				rules = append(rules, object{"id": v.id, "properties": object{"security-severity": v.score}})
				results = append(results, object{"ruleId": v.id, "message": object{"text": v.id + " in " + p}})
			}
		}
	}
	fmt.Printf("scanned %d layers\n", len(layers))
	raw, err := json.Marshal(object{"version": "2.1.0", "runs": []any{object{
		"tool":    object{"driver": object{"name": "scanner", "rules": append([]any{}, rules...)}},
		"results": append([]any{}, results...),
	}}})
	if err != nil {
		return err
	}
	return os.WriteFile(report, raw, 0o644)
}

type object = map[string]any

// reach prints what a check must not have, and what it can write.
func reach() {
	for _, path := range []string{"/etc/secrets", "/var/run/secrets/kubernetes.io/serviceaccount/token"} {
		if _, err := os.Stat(path); err == nil {
			fmt.Println("reached", path)
		}
	}
	for _, dir := range []string{"/mnt/vol/source", "/mnt/vol/image", "/check/image", "/opt/stepwright", "/"} {
		if err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o644); err == nil {
			fmt.Println("wrote", dir)
		}
	}
}

// layersOf returns the files of an image's layers. All must be there.
func layersOf(layout string) (files []string, err error) {
	var index, manifest struct {
		Manifests []struct{ Digest string }
		Layers    []struct{ Digest string }
	}
	blob := func(digest string) string {
		algorithm, hex, _ := strings.Cut(digest, ":")
		return filepath.Join(layout, "blobs", algorithm, hex)
	}
	if err := read(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("the layout has %d manifests", len(index.Manifests))
	}
	if err := read(blob(index.Manifests[0].Digest), &manifest); err != nil {
		return nil, err
	}
	if len(manifest.Layers) == 0 {
		return nil, errors.New("the manifest is of no image")
	}
	for _, l := range manifest.Layers {
		files = append(files, blob(l.Digest))
	}
	return files, nil
}

func read(path string, into any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// packagesOf reads the list of packages in a layer; none is no error.
func packagesOf(layer string) (packages []string, err error) {
	file, err := os.Open(layer)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(bufio.NewReader(file))
	if err != nil {
		return nil, err
	}
	for archive := tar.NewReader(unpacked); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return packages, nil
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimPrefix(header.Name, "./") != packagesFile {
			continue
		}
		for lines := bufio.NewScanner(archive); lines.Scan(); {
			packages = append(packages, strings.TrimSpace(lines.Text()))
		}
	}
}
