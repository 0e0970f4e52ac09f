package buildpack

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/BurntSushi/toml"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Annotations and labels of the OCI image specification, and the lifecycle's own label.
const (
	baseName       = "org.opencontainers.image.base.name"
	baseDigest     = "org.opencontainers.image.base.digest"
	refName        = "org.opencontainers.image.ref.name"
	lifecycleLabel = "io.buildpacks.lifecycle.metadata"
)

// seal turns the lifecycle's layout into the published one: the image gets its labels and names its base, by name
// instead of by a path of this machine. It returns the image's digest.
func (b *build) seal(layout imagelayout.Dir, tag string) (string, error) {
	var index v1.IndexManifest
	if err := layout.ReadIndex(&index); err != nil {
		return "", err
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("its layout has %d images", len(index.Manifests))
	}
	image := index.Manifests[0]
	var manifest v1.Manifest
	if err := layout.ReadJSON(image.Digest, &manifest); err != nil {
		return "", err
	}
	var config v1.ConfigFile
	if err := layout.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return "", err
	}
	if err := b.checkLayers(layout, manifest); err != nil {
		return "", err
	}
	if config.Config.Labels == nil {
		config.Config.Labels = map[string]string{}
	}
	if err := b.label(config.Config.Labels); err != nil {
		return "", err
	}
	if manifest.Annotations == nil {
		manifest.Annotations = map[string]string{}
	}
	manifest.Annotations[baseName] = b.base.Reference
	manifest.Annotations[baseDigest] = b.base.Descriptor.Digest.String()

	old := []string{layout.Blob(image.Digest), layout.Blob(manifest.Config.Digest)}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return "", err
		}
	}
	var err error
	if manifest.Config.Digest, manifest.Config.Size, err = layout.WriteJSON(config); err != nil {
		return "", err
	}
	if image.Digest, image.Size, err = layout.WriteJSON(manifest); err != nil {
		return "", err
	}
	image.Annotations = map[string]string{refName: tag}
	if err := layout.WriteIndex(image); err != nil {
		return "", err
	}
	return image.Digest.String(), workspace.MakeReadable(string(layout))
}

// checkLayers makes sure that absent layers belong to the run image: from there they are published.
func (b *build) checkLayers(layout imagelayout.Dir, image v1.Manifest) error {
	var base v1.Manifest
	if err := json.Unmarshal(b.base.Manifest, &base); err != nil {
		return err
	}
	elsewhere := map[v1.Hash]bool{}
	for _, l := range base.Layers {
		elsewhere[l.Digest] = true
	}
	for _, l := range image.Layers {
		if _, err := os.Stat(layout.Blob(l.Digest)); errors.Is(err, fs.ErrNotExist) && !elsewhere[l.Digest] {
			return fmt.Errorf("layer %s is neither in the layout nor in the run image", l.Digest)
		}
	}
	return nil
}

// label adds the image's source and the given labels, and corrects the lifecycle's labels of the run image.
func (b *build) label(labels map[string]string) error {
	if text, ok := labels[lifecycleLabel]; ok {
		decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
		decoder.UseNumber()
		var metadata map[string]any
		if err := decoder.Decode(&metadata); err != nil {
			return fmt.Errorf("label %s: %w", lifecycleLabel, err)
		}
		if run, ok := metadata["runImage"].(map[string]any); ok {
			run["reference"] = b.base.Reference
		}
		raw, err := json.Marshal(metadata)
		if err != nil {
			return err
		}
		labels[lifecycleLabel] = string(raw)
	}
	maps.Copy(labels, b.revision.Labels(b.epoch))
	for _, l := range b.in.Labels {
		labels[l.Name] = l.Value
	}
	return nil
}

// keepSBOM takes the bills of materials into the workspace. That of what the image holds is in the image, too; that of
// its builder is not.
func (b *build) keepSBOM() error {
	to := b.in.Workspace.SBOM()
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	for _, kind := range []string{"launch", "build"} {
		from := filepath.Join(layersDir, "sbom", kind)
		if _, err := os.Stat(from); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.CopyFS(filepath.Join(to, kind), os.DirFS(from)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return workspace.MakeReadable(to)
}

// refuseExtensions ends a build that would change its base images by Dockerfiles: that takes root.
func (b *build) refuseExtensions() error {
	var group struct {
		Extensions []struct {
			ID string `toml:"id"`
		} `toml:"group-extensions"`
	}
	if _, err := toml.DecodeFile(filepath.Join(layersDir, "group.toml"), &group); err != nil {
		return err
	}
	if len(group.Extensions) > 0 {
		return unsupported(
			b.builder.image,
			"its extension %s would change base images, which this step cannot do without privileges",
			group.Extensions[0].ID,
		)
	}
	return nil
}
