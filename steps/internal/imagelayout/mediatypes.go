package imagelayout

import (
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ociTypes are the media types of OCI for those of Docker that mean the same bytes.
var ociTypes = map[types.MediaType]types.MediaType{
	types.DockerManifestSchema2:                            types.OCIManifestSchema1,
	types.DockerManifestList:                               types.OCIImageIndex,
	types.DockerConfigJSON:                                 types.OCIConfigJSON,
	types.DockerLayer:                                      types.OCILayer,
	types.DockerUncompressedLayer:                          types.OCIUncompressedLayer,
	types.DockerForeignLayer:                               types.OCIRestrictedLayer,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":    types.OCILayerZStd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar": types.OCIUncompressedRestrictedLayer,
}

// ToOCI gives an image's manifest OCI's media types throughout. A manifest takes the types of its base image and of
// the program that adds layers, and strict registries refuse those that mix Docker's with OCI's, or have annotations
// and are Docker's. Blobs stay as they are.
func ToOCI(manifest *v1.Manifest) error {
	manifest.SchemaVersion, manifest.MediaType = 2, types.OCIManifestSchema1
	all := []*types.MediaType{&manifest.Config.MediaType}
	for i := range manifest.Layers {
		all = append(all, &manifest.Layers[i].MediaType)
	}
	for _, mediaType := range all {
		if oci, ok := ociTypes[*mediaType]; ok {
			*mediaType = oci
		}
		if strings.HasPrefix(string(*mediaType), "application/vnd.docker.") {
			return fmt.Errorf("no media type of OCI is %s", *mediaType)
		}
	}
	return nil
}
