package imagelayout

import (
	"errors"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/buildreport"
)

// Describe tells for the report of a build which images a layout has, and which statements beside them. The layout has
// one root.
func (d Dir) Describe() (images []buildreport.Image, statements []buildreport.Statement, err error) {
	var top v1.IndexManifest
	if err := d.ReadIndex(&top); err != nil {
		return nil, nil, err
	}
	if len(top.Manifests) != 1 {
		return nil, nil, errors.New("the layout has not one root")
	}
	all := top.Manifests
	if all[0].MediaType.IsIndex() {
		var index v1.IndexManifest
		if err := d.ReadJSON(all[0].Digest, &index); err != nil {
			return nil, nil, err
		}
		all = index.Manifests
	}
	for _, one := range all {
		var manifest v1.Manifest
		if err := d.ReadJSON(one.Digest, &manifest); err != nil {
			return nil, nil, err
		}
		if one.Annotations[ReferenceType] == AttestationManifest {
			for _, statement := range manifest.Layers {
				statements = append(statements, buildreport.Statement{
					Type: statement.Annotations[PredicateType], Digest: statement.Digest.String(), Size: statement.Size,
				})
			}
			continue
		}
		image, err := d.describe(one.Digest, manifest)
		if err != nil {
			return nil, nil, err
		}
		images = append(images, image)
	}
	return images, statements, nil
}

// MissingHistory is the comment of what BuildKit's exporter adds at the end of a history that lacks the layers of the
// base image, which are the lowest.
const MissingHistory = "buildkit.exporter.image.v0"

// describe tells of one image.
func (d Dir) describe(digest v1.Hash, manifest v1.Manifest) (buildreport.Image, error) {
	image := buildreport.Image{Digest: digest.String()}
	var config v1.ConfigFile
	if err := d.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return image, err
	}
	image.Platform = strings.Trim(strings.Join([]string{config.OS, config.Architecture, config.Variant}, "/"), "/")
	var unknown, made []string // what made each layer
	for _, h := range config.History {
		switch {
		case h.EmptyLayer:
		case h.Comment == MissingHistory:
			unknown = append(unknown, "")
		default:
			made = append(made, strings.TrimSpace(h.CreatedBy))
		}
	}
	made = append(unknown, made...)
	for i, l := range manifest.Layers {
		layer := buildreport.Layer{Digest: l.Digest.String(), Size: l.Size}
		if len(made) == len(manifest.Layers) { // else it is not known which is of which
			layer.CreatedBy = made[i]
		}
		image.Layers = append(image.Layers, layer)
	}
	return image, nil
}
