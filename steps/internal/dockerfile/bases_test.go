package dockerfile

import (
	"os"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// What publish-image has the registry mount is not in the workspace. What it would have to fetch from elsewhere is.
func TestLayersOfBaseImages(t *testing.T) {
	t.Parallel()
	base := must(must(must(busybox()).Layers())[0].Digest())
	elsewhere := newRegistry(t, registrytest.PlainHTTP, registrytest.Anonymous)
	tests := []struct {
		name   string
		from   func(c *component) string
		change func(c *component, in *Parameters)
		absent bool
	}{
		{"in the registry", func(c *component) string { return c.Host + "/library/busybox:1" }, nil, true},
		{"in a mirror there", func(*component) string { return "busybox:1" }, nil, true},
		{"in a second mirror there", func(*component) string { return "busybox:1" },
			func(c *component, in *Parameters) {
				in.RegistryMirrors = []registry.Mirror{
					{Registry: "docker.io", Mirror: elsewhere.Host + "/nothing/is/here"}, in.RegistryMirrors[0],
				}
				in.InsecureRegistries = []string{elsewhere.Host}
			}, true},
		{"in another registry", func(*component) string { return elsewhere.Host + "/library/busybox:1" },
			func(c *component, in *Parameters) { in.InsecureRegistries = []string{elsewhere.Host} }, false},
		{"in another mirror", func(*component) string { return "busybox:1" },
			func(c *component, in *Parameters) {
				in.RegistryMirrors = []registry.Mirror{{Registry: "docker.io", Mirror: elsewhere.Host}}
				in.InsecureRegistries = []string{elsewhere.Host}
			}, false},
		{"without a registry for the image", func(*component) string { return "busybox:1" },
			func(c *component, in *Parameters) { in.Registry = "" }, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newComponent(t)
			if test.change != nil {
				c.change = func(in *Parameters) { test.change(c, in) }
			}
			files := map[string]string{"Dockerfile": "FROM " + test.from(c) + "\nRUN echo x > /made\n"}
			built := c.build(t, files)
			_, err := os.Stat(imagelayout.Dir(built.in.Workspace.Image()).Blob(base))
			if absent := os.IsNotExist(err); absent != test.absent {
				t.Errorf("the base image's layer is absent from the workspace: %t\n%s", absent, built.output)
			}
			if built.in.Registry == "" {
				return
			}
			c.publishes(t, &built)
			if test.absent && (built.pushed > little || !strings.Contains(built.published, `mounted="1 `)) {
				t.Errorf("pushed %d bytes\n%s", built.pushed, built.published)
			}
			config := must(must(c.Get(t, "team/cart:v1").Image()).ConfigFile())
			if len(config.RootFS.DiffIDs) != 2 || !c.Has(t, "team/cart@"+built.digest) {
				t.Errorf("the registry has %v", config.RootFS)
			}
		})
	}
}
