package kustomization

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder writes files of these names and texts.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	object = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cart\n"
	around = "namePrefix: my-\nresources: [object.yaml]\n"
)

func TestText(t *testing.T) {
	tests := []struct {
		name, text string
		files      map[string]string
		fault      string
		in         bool
	}{
		{
			name: "kustomization.yaml", files: map[string]string{"kustomization.yaml": around, "object.yaml": object},
			in: true, text: strings.Replace(object, "cart", "my-cart", 1),
		},
		{
			name: "Kustomization", files: map[string]string{"Kustomization": around, "object.yaml": object},
			in: true, text: strings.Replace(object, "cart", "my-cart", 1),
		},
		{name: "none", files: map[string]string{"object.yaml": object}, fault: "unable to find one of"},
		{
			name: "a file that is not there", files: map[string]string{"kustomization.yml": around}, in: true,
			fault: "object.yaml",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := folder(t, test.files)
			if In(dir) != test.in {
				t.Errorf("In is %t", !test.in)
			}
			text, err := Text(dir)
			if test.fault == "" {
				if err != nil || string(text) != test.text {
					t.Errorf("%v, it is\n%s", err, text)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "kustomize "+dir+": ") ||
				!strings.Contains(err.Error(), test.fault) {
				t.Errorf("error %v", err)
			}
		})
	}
}
