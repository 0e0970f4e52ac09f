package chart

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/images/layouts"
)

// Media types of charts in registries.
const (
	configType  types.MediaType = "application/vnd.cncf.helm.config.v1+json"
	contentType types.MediaType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
)

// packed is a chart as an image: its configuration is Chart.yaml, as JSON.
type packed struct {
	v1.Image
	config []byte
}

func (p packed) RawConfigFile() ([]byte, error) { return p.config, nil }
func (p packed) ConfigName() (v1.Hash, error)   { return partial.ConfigName(p) }
func (p packed) RawManifest() ([]byte, error)   { return partial.RawManifest(p) }
func (p packed) Digest() (v1.Hash, error)       { return partial.Digest(p) }
func (p packed) Size() (int64, error)           { return partial.Size(p) }

func (p packed) Manifest() (*v1.Manifest, error) {
	m, err := p.Image.Manifest()
	if err != nil {
		return nil, err
	}
	m = m.DeepCopy()
	m.Config.Digest, err = p.ConfigName()
	m.Config.MediaType, m.Config.Size = configType, int64(len(p.config))
	return m, err
}

// WriteLayout writes an OCI image layout of a packed chart, as Helm pulls it from a registry, into a folder.
func WriteLayout(dir string, chartFile, archive []byte, version string) error {
	config, err := yaml.YAMLToJSON(chartFile)
	if err != nil || !json.Valid(config) {
		return errors.Join(err, errors.New("the file Chart.yaml is no object"))
	}
	img, err := mutate.Append(
		mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		mutate.Addendum{Layer: static.NewLayer(archive, contentType), MediaType: contentType},
	)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	root, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return root.AppendImage(packed{img, config}, layout.WithAnnotations(map[string]string{layouts.RefName: version}))
}
