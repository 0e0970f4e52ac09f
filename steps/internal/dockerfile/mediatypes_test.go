package dockerfile

import (
	"fmt"
	"testing"

	"github.com/stepwright/stepwright/internal/testimage/imagetest"
)

// Whatever form the base image has, the image is such that a strict registry takes it.
func TestFormsOfBaseImages(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for i, kind := range imagetest.Kinds(t, must(busybox())) {
		reference := fmt.Sprintf("library/form%d:1", i)
		r.Push(t, reference, kind.Image)
		for _, mode := range []string{"none", "min"} {
			in := parameters(project(t, map[string]string{
				"Dockerfile": "FROM " + reference + "\nRUN true\nCOPY Dockerfile /\nLABEL a=b\n",
			}), r)
			in.Provenance = mode
			if end := run(t, t.Context(), in); end.err != nil {
				t.Fatalf("%s: %v\n%s", kind.Name, end.err, end.output)
			}
			for _, fault := range imagetest.Strict(in.Workspace.Image()) {
				t.Errorf("%s, provenance %s: %s", kind.Name, mode, fault)
			}
		}
	}
}
