package imagelayout

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestToOCI(t *testing.T) {
	t.Parallel()
	tests := []struct{ layer, want types.MediaType }{
		{types.DockerLayer, types.OCILayer},
		{types.DockerUncompressedLayer, types.OCIUncompressedLayer},
		{types.DockerForeignLayer, types.OCIRestrictedLayer},
		{"application/vnd.docker.image.rootfs.diff.tar.zstd", types.OCILayerZStd},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar", types.OCIUncompressedRestrictedLayer},
		{types.OCILayer, types.OCILayer},
		{types.OCILayerZStd, types.OCILayerZStd},
		{types.OCIRestrictedLayer, types.OCIRestrictedLayer},
		{types.OCIUncompressedLayer, types.OCIUncompressedLayer},
		{"application/vnd.docker.plugin.v1+json", ""},
	}
	for _, test := range tests {
		for _, kinds := range [][2]types.MediaType{
			{types.DockerManifestSchema2, types.DockerConfigJSON}, {types.OCIManifestSchema1, types.OCIConfigJSON},
			{types.DockerManifestSchema2, types.OCIConfigJSON}, {"", types.DockerConfigJSON},
		} {
			manifest := v1.Manifest{
				MediaType: kinds[0],
				Config:    v1.Descriptor{MediaType: kinds[1]},
				Layers: []v1.Descriptor{
					{MediaType: types.OCILayer}, {MediaType: test.layer, URLs: []string{"https://a"}},
				},
			}
			err := ToOCI(&manifest)
			if test.want == "" {
				if err == nil {
					t.Errorf("%s is taken for %s", test.layer, manifest.Layers[1].MediaType)
				}
				continue
			}
			if err != nil || manifest.MediaType != types.OCIManifestSchema1 ||
				manifest.Config.MediaType != types.OCIConfigJSON || manifest.Layers[1].MediaType != test.want ||
				manifest.SchemaVersion != 2 || len(manifest.Layers[1].URLs) != 1 {
				t.Errorf("%s in %s: %+v, %v", test.layer, kinds[0], manifest, err)
			}
		}
	}
}
