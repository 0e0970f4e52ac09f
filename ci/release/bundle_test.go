package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/templates"
)

const folder = "../../templates/"

var planes = []string{folder + "workflow-plane", folder + "control-plane"}

// kinds are the kinds of a file's objects.
func kinds(t *testing.T, file []byte) []string {
	t.Helper()
	var all []string
	for document := range bytes.SplitSeq(file, []byte("\n---\n")) {
		var object struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal(document, &object); err != nil {
			t.Fatal(err)
		}
		all = append(all, object.Kind)
	}
	return all
}

func TestBundle(t *testing.T) {
	tests := []struct {
		name string
		dirs []string
	}{
		{"the planes", planes},
		{"an overlay", []string{folder + "overlays/example"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files, err := bundle(test.dirs, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := kinds(t, files["workflow-plane.yaml"]); strings.Join(got, " ") != strings.TrimSpace(
				strings.Repeat("ClusterWorkflowTemplate ", 6+len(templates.Builders())),
			) {
				t.Errorf("workflow-plane.yaml has %v", got)
			}
			if got := kinds(t, files["control-plane.yaml"]); strings.Join(got, " ") != strings.TrimSpace(
				strings.Repeat("ClusterWorkflow ", len(templates.Workflows())),
			) {
				t.Errorf("control-plane.yaml has %v", got)
			}
			again, err := bundle(test.dirs, "")
			if err != nil {
				t.Fatal(err)
			}
			for name := range files {
				if !bytes.Equal(files[name], again[name]) {
					t.Errorf("%s differs between two runs", name)
				}
			}
		})
	}
}

func TestDigestsWhereTheyAreKnown(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	dir := t.TempDir()
	write := func(step, index string) {
		if err := os.MkdirAll(filepath.Join(dir, step), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, step, "index.json"), []byte(index), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("publish-image", `{"manifests":[{"digest":"`+digest+`"}]}`)
	files, err := bundle(planes, dir)
	if err != nil {
		t.Fatal(err)
	}
	without, err := bundle(planes, "")
	if err != nil {
		t.Fatal(err)
	}
	text := string(files["workflow-plane.yaml"])
	// builders have digests anyway
	more := strings.Count(text, "@sha256:") - strings.Count(string(without["workflow-plane.yaml"]), "@sha256:")
	if !strings.Contains(text, "/publish-image:") || more != 1 || !strings.Contains(text, "@"+digest) {
		t.Error("the digest is not in the file, or more than it")
	}
	write("publish-image", `{"manifests":[]}`)
	if _, err := bundle(planes, dir); err == nil ||
		!strings.Contains(err.Error(), "publish-image/index.json: has 0 manifests") {
		t.Errorf("a layout without an image: %v", err)
	}
}
