package buildpack

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stepwright/stepwright/internal/testimage/imagetest"
)

// Whatever form the run image has, the image and its cache are such that a strict registry takes them, and its digests
// hold until it is published.
func TestFormsOfRunImages(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	for i, kind := range imagetest.Kinds(t, runImage(t, runtime.GOARCH)) {
		t.Run(kind.Name, func(t *testing.T) {
			reference := fmt.Sprintf("base/form%d:1", i)
			registry.Push(t, reference, kind.Image)
			dir := newWorkspace(t, greeter)
			e := builds(t, newPod(t, registry, dir, "RUN_IMAGE", registry.Host+"/"+reference))
			for _, layout := range []string{"image", "cache"} {
				for _, fault := range imagetest.Strict(filepath.Join(dir, layout)) {
					t.Errorf("%s: %s", layout, fault)
				}
			}
			if published, _ := publish(t, registry, dir, e); published != e.outcome.Results["image-digest"] {
				t.Errorf("published %s, built %v", published, e.outcome.Results)
			}
		})
	}
}
