package buildpack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// Annotations and labels of the OCI image specification, and labels of buildpacks.
const (
	baseName       = "org.opencontainers.image.base.name"
	baseDigest     = "org.opencontainers.image.base.digest"
	refName        = "org.opencontainers.image.ref.name"
	lifecycleLabel = "io.buildpacks.lifecycle.metadata"
	projectLabel   = "io.buildpacks.project.metadata"
)

// Seal makes the image of what Build left in the layers and the application's folder, with the lifecycle of a pristine
// builder, and puts image, cache and bills of materials into the workspace. No process of the user's code is there any
// more, and of what it could write nothing is believed: what Build says only decides on the words of a failure.
//
// It results in image-digest, the digest of the layout's one root (an index when there are attestations, else the
// image's manifest); run-image, the reference of the image that it is built on, with its digest; base-images, the same
// as a JSON array; and sbom, the folder of the bills of materials. The workspace's image is replaced when the new one
// is complete: a build that fails leaves it as it was.
func Seal(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	times := in.readTimes(env)
	defer func() { env.LeaveBuildReport(times.report()) }()
	base, err := in.fetched().read()
	if err != nil {
		return nil, err
	}
	if err := in.handover().Replay(replay.Build, env.Stderr); err != nil {
		env.Log.Warn("The log of the build is not here", "error", err)
	}
	if failure := in.handover().Read(); failure != nil {
		return nil, failure
	}
	j, err := newJob(ctx, in, env, times)
	if err != nil {
		return nil, err
	}
	s, err := newSealing(j, base)
	if err != nil {
		return nil, err
	}
	return s.run(ctx)
}

// sealing is an image that is being made of a finished build.
type sealing struct {
	*job
	base registry.Image
}

// newSealing looks at what the build left before a program of the lifecycle does.
func newSealing(j *job, base registry.Image) (*sealing, error) {
	return &sealing{j, base}, j.builder.inspect(layersDir)
}

// run exports the image, and takes it, its cache and its bills of materials into the workspace.
func (s *sealing) run(ctx context.Context) (step.Results, error) {
	temporary, err := os.MkdirTemp("", "sealing-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temporary)
	if err := s.in.Workspace.RemoveUnfinished(); err != nil {
		s.env.Log.Warn("Cannot remove what an earlier attempt left", "error", err)
	}
	layout, err := workspace.Stage(s.in.Workspace.Image())
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(layout)
	own := func(name string) string { return filepath.Join(temporary, name) }
	for _, dir := range []string{own("layers"), own("extended"), own("tmp")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	var cache []string
	if s.in.Cache != cacheDisabled {
		if err := s.in.fetched().linkCache(own("cache")); err != nil {
			return nil, err
		}
		cache = []string{"-cache-dir", own("cache")}
	}
	// Everything that could be in the layers, and is not of buildpacks, has a place of its own.
	analyzed := []string{"-analyzed", own("analyzed.toml")}
	err = s.takeThrough(ctx, own("tmp"), []phase{
		{"analyzer", [][]string{{"-no-color", "-layers", own("layers"), "-layout", "-layout-dir",
			s.in.fetched().layout()}, analyzed, user(), {"-run-image", localReference(s.base), s.output()}}},
		{exporter, [][]string{where, {"-layout", "-layout-dir", layout}, analyzed, user(), cache, {
			"-extended", own("extended"), "-project-metadata", own("project-metadata.toml"),
			"-report", own("report.toml"), "-app", appDir, s.output(),
		}}},
	}, func(string) error { return nil })
	if err != nil {
		return nil, err
	}
	image := filepath.Join(layout, "image")
	if err := os.Rename(
		filepath.Join(layout, localRegistry, filepath.FromSlash(s.in.ImageName), s.tag()), image,
	); err != nil {
		return nil, err
	}
	return s.keep(image, own("cache"))
}

// keep takes image, cache and bills of materials into the workspace.
func (s *sealing) keep(layout, cache string) (step.Results, error) {
	image, err := s.finish(imagelayout.Dir(layout))
	if err != nil {
		return nil, fmt.Errorf("the lifecycle's image: %w", err)
	}
	bases, err := json.Marshal([]string{s.base.Reference})
	if err != nil {
		return nil, err
	}
	if err := s.keepSBOM(); err != nil {
		return nil, fmt.Errorf("bills of materials: %w", err)
	}
	root, err := s.attest(imagelayout.Dir(layout), image)
	if err != nil {
		return nil, fmt.Errorf("attestations: %w", err)
	}
	root.Annotations = map[string]string{refName: s.tag()}
	if err := imagelayout.Dir(layout).WriteIndex(root); err != nil {
		return nil, err
	}
	if err := workspace.MakeReadable(layout); err != nil {
		return nil, err
	}
	if err := s.times.seal(imagelayout.Dir(layout), s.base); err != nil {
		s.env.Log.Warn("The report of the build lacks the image", "error", err)
	}
	// Of an earlier build in the same workspace.
	if _, err := os.Stat(s.in.Workspace.Cache()); err == nil {
		if err := handover.Clear(s.in.Workspace.Cache()); err != nil {
			return nil, err
		}
	}
	if s.in.Cache != cacheDisabled {
		// A build without a cache is a build.
		if err := s.keepCache(cache); err != nil {
			s.env.Log.Warn("The next build has no cache", "error", err)
		}
	}
	if err := workspace.Replace(layout, s.in.Workspace.Image()); err != nil {
		return nil, err
	}
	s.env.Log.Info("Built", "digest", root.Digest)
	return step.Results{
		"image-digest": root.Digest.String(), "run-image": s.base.Reference, "base-images": string(bases),
		"sbom": s.in.Workspace.SBOM(),
	}, nil
}

// finish turns the lifecycle's layout into the published one: the image gets its labels, OCI's media types whatever
// those of its base are, and names that base, by name instead of by a path of this machine.
func (s *sealing) finish(layout imagelayout.Dir) (image v1.Descriptor, err error) {
	var index v1.IndexManifest
	if err := layout.ReadIndex(&index); err != nil {
		return image, err
	}
	if len(index.Manifests) != 1 {
		return image, fmt.Errorf("its layout has %d images", len(index.Manifests))
	}
	image = index.Manifests[0]
	var manifest v1.Manifest
	if err := layout.ReadJSON(image.Digest, &manifest); err != nil {
		return image, err
	}
	var config v1.ConfigFile
	if err := layout.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return image, err
	}
	if err := s.checkLayers(layout, manifest); err != nil {
		return image, err
	}
	if config.Config.Labels == nil {
		config.Config.Labels = map[string]string{}
	}
	if err := s.label(config.Config.Labels); err != nil {
		return image, err
	}
	if err := s.setRevision(&config.Config); err != nil {
		return image, err
	}
	if err := imagelayout.ToOCI(&manifest); err != nil {
		return image, err
	}
	image.MediaType = manifest.MediaType
	if manifest.Annotations == nil {
		manifest.Annotations = map[string]string{}
	}
	manifest.Annotations[baseName] = s.base.Reference
	manifest.Annotations[baseDigest] = s.base.Descriptor.Digest.String()

	old := []string{layout.Blob(image.Digest), layout.Blob(manifest.Config.Digest)}
	for _, path := range old {
		if err := os.Remove(path); err != nil {
			return image, err
		}
	}
	if manifest.Config.Digest, manifest.Config.Size, err = layout.WriteJSON(config); err != nil {
		return image, err
	}
	if image.Digest, image.Size, err = layout.WriteJSON(manifest); err != nil {
		return image, err
	}
	image.Annotations = nil
	image.Platform = &v1.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
	return image, nil
}

// checkLayers makes sure that absent layers belong to the run image: from there they are published.
func (s *sealing) checkLayers(layout imagelayout.Dir, image v1.Manifest) error {
	var base v1.Manifest
	if err := json.Unmarshal(s.base.Manifest, &base); err != nil {
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
func (s *sealing) label(labels map[string]string) error {
	if text, ok := labels[lifecycleLabel]; ok {
		decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
		decoder.UseNumber()
		var metadata map[string]any
		if err := decoder.Decode(&metadata); err != nil {
			return fmt.Errorf("label %s: %w", lifecycleLabel, err)
		}
		if run, ok := metadata["runImage"].(map[string]any); ok {
			run["reference"] = s.base.Reference
		}
		raw, err := json.Marshal(metadata)
		if err != nil {
			return err
		}
		labels[lifecycleLabel] = string(raw)
	}
	// A buildpack may set any label, and so may what it builds. These are not theirs to set.
	delete(labels, step.OwnerLabel)
	if s.in.SourceDigest != "" {
		for name := range (workspace.Revision{URL: "-", Commit: "-"}).Labels(time.Unix(0, 0)) {
			delete(labels, name)
		}
		delete(labels, projectLabel)
	}
	maps.Copy(labels, s.revision.Labels(s.epoch))
	if err := labelProject(s.revision, labels); err != nil {
		return err
	}
	for _, l := range s.in.Labels {
		labels[l.Name] = l.Value
	}
	if owner := s.in.Owner.Label(); owner != "" {
		labels[step.OwnerLabel] = owner
	}
	return nil
}
