package gate

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/baselayer"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// layout is the image with all its layers: an OCI image layout of the platforms' images alone, as scanners want it.
func (in Parameters) layout() imagelayout.Dir {
	return imagelayout.Dir(filepath.Join(in.PreparedDir, "image"))
}

// sboms is the folder of the image's bills of materials, as documents.
func (in Parameters) sboms() string { return filepath.Join(in.PreparedDir, "sbom") }

// Prepare puts together what is to be checked: the source is verified, and the image is copied with all its layers,
// those that the build left in registries, too, so that the credentials for registries are not where the check runs.
// That it fails, it leaves for Decide to say.
func Prepare(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	return nil, leave(ctx, in.prepared(), in.prepare(ctx, env), env)
}

func (in Parameters) prepare(ctx context.Context, env step.Environment) error {
	started := time.Now()
	if err := in.checkIsSet(); err != nil {
		return err
	}
	if err := errors.Join(
		os.RemoveAll(string(in.layout())), os.RemoveAll(filepath.Dir(string(in.layoutOf(0)))),
		os.RemoveAll(filepath.Join(in.PreparedDir, platformsFile)), handover.Clear(in.sboms()),
	); err != nil {
		return err
	}
	if err := in.Workspace.VerifySource(ctx, in.SourceDigest, env.Log); err != nil {
		return err
	}
	path, err := imagelayout.Locate(in.Workspace)
	if err != nil {
		return err
	}
	image, err := imagelayout.Open(ctx, path, os.TempDir())
	if err != nil {
		return err
	}
	defer image.Close()
	if got := image.Root().Digest.String(); in.ImageDigest != "" && got != in.ImageDigest {
		return outcome.Errorf(
			outcome.ImageInvalid, "the image in %s is %s, and not %s, which the build step made", path, got,
			in.ImageDigest,
		)
	}
	if err := in.copyImages(ctx, image, env); err != nil {
		return err
	}
	sboms, err := in.copySBOMs(image)
	if err != nil {
		return err
	}
	env.Log.Info("Put together what is to be checked", "image", image.Root().Digest, "from registries",
		len(image.Absent), "sboms", sboms, "took", time.Since(started))
	return nil
}

// checkIsSet wants the platform to have named a check.
func (in Parameters) checkIsSet() error {
	var faults []string
	if in.CheckImage == "" {
		faults = append(faults, "check-image: is empty")
	}
	if len(in.CheckCommand) == 0 {
		faults = append(faults, "check-command: is empty")
	}
	if faults == nil {
		return nil
	}
	return outcome.Invalid(faults...).WithHint(
		"The platform names its check by the settings scan-image and scan-command.",
	)
}

// copyImages writes the layout, or one for each of several images.
func (in Parameters) copyImages(ctx context.Context, image *imagelayout.Image, env step.Environment) error {
	bases, done, err := in.bases(ctx, env)
	if err != nil {
		return err
	}
	defer done()
	images, err := image.Images()
	if err == nil && len(images) == 0 {
		err = outcome.Errorf(outcome.ImageInvalid, "the image in %s: its index lists no image", image.Path)
	}
	if err != nil {
		return err
	}
	blobs, err := blobsOf(image, images)
	if err != nil {
		return err
	}
	absent := slices.DeleteFunc(slices.Clone(blobs), func(b v1.Descriptor) bool { return !image.Absent[b.Digest] })
	if len(absent) > 0 {
		if err := bases.Find(ctx, image.Path, absent, env.Retry); err != nil {
			return err
		}
	}
	if len(images) == 1 {
		return copyImage(ctx, in.layout(), image, images[0], bases, env)
	}
	var names []string
	for i, manifest := range images {
		name, err := platformOf(image, manifest)
		if err != nil {
			return err
		}
		if err := copyImage(ctx, in.layoutOf(i), image, manifest, bases, env); err != nil {
			return err
		}
		names = append(names, name)
	}
	return in.writePlatforms(names)
}

// copyImage writes the layout of one image.
func copyImage(
	ctx context.Context, to imagelayout.Dir, image *imagelayout.Image, manifest imagelayout.Manifest,
	bases *baselayer.Bases, env step.Environment,
) error {
	blobs, err := blobsOf(image, []imagelayout.Manifest{manifest})
	if err != nil {
		return err
	}
	if err := to.WriteBlob(manifest.Digest, manifest.Raw); err != nil {
		return err
	}
	for _, blob := range blobs {
		open := func(context.Context) (io.ReadCloser, error) { return image.Open(blob) }
		if image.Absent[blob.Digest] {
			open = func(ctx context.Context) (io.ReadCloser, error) { return bases.Open(ctx, blob.Digest) }
		}
		err := env.Retry.Do(ctx, func(ctx context.Context) error { return copyBlob(ctx, to, blob, open) })
		if err != nil {
			return err
		}
	}
	return to.WriteIndex(v1.Descriptor{
		MediaType: manifest.MediaType, Digest: manifest.Digest, Size: int64(len(manifest.Raw)),
	})
}

// bases are what layers come from that the build left in registries. done is to be called at the end.
func (in Parameters) bases(
	ctx context.Context, env step.Environment,
) (bases *baselayer.Bases, done func(), err error) {
	if in.PullSecretRequired {
		if err := in.Await(ctx, env.Log, outcome.AuthenticationFailed, in.RegistryPullSecret); err != nil {
			return nil, nil, err
		}
	}
	transport, err := trust.Transport(in.CABundle)
	if err != nil {
		return nil, nil, err
	}
	credentials, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return nil, nil, err
	}
	if warning := credentials.Warning(); warning != "" {
		env.Log.Warn(warning)
	}
	source := registry.Source{
		Mirrors: in.RegistryMirrors, Insecure: in.InsecureRegistries, Credentials: credentials, Transport: transport,
	}
	if in.InsecurePlainHTTP { // the component's cache is there, in which a build may leave layers
		host, _, _ := strings.Cut(in.Registry, "/")
		source.Insecure = append(slices.Clone(source.Insecure), host)
	}
	return &baselayer.Bases{Images: in.BaseImages, Source: source}, transport.CloseIdleConnections, nil
}

// blobsOf are the configurations and layers of images, each once.
func blobsOf(image *imagelayout.Image, images []imagelayout.Manifest) (blobs []v1.Descriptor, err error) {
	seen := map[v1.Hash]bool{}
	for _, m := range images {
		manifest, err := v1.ParseManifest(strings.NewReader(string(m.Raw)))
		if err != nil {
			return nil, outcome.Errorf(
				outcome.ImageInvalid, "the image in %s: manifest %s: %w", image.Path, m.Digest, err,
			)
		}
		for _, blob := range append([]v1.Descriptor{manifest.Config}, manifest.Layers...) {
			if image.Has(blob) && !seen[blob.Digest] { // others belong into no registry
				seen[blob.Digest] = true
				blobs = append(blobs, blob)
			}
		}
	}
	return blobs, nil
}

// copyBlob copies a blob into a layout. What it reads ends in an error when it has another digest.
func copyBlob(
	ctx context.Context, to imagelayout.Dir, blob v1.Descriptor,
	open func(context.Context) (io.ReadCloser, error),
) (err error) {
	content, err := open(ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	path := to.Blob(blob.Digest)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if _, err = io.Copy(file, content); err == nil {
		err = context.Cause(ctx)
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	return err
}

// statementLimit is how large a statement with a bill of materials may be, in bytes.
const statementLimit = 64 << 20

// copySBOMs writes the image's bills of materials as files 1.spdx.json, 2.spdx.json and so on, and tells how many there
// are.
func (in Parameters) copySBOMs(image *imagelayout.Image) (found int, err error) {
	attestations, err := image.Attestations()
	if err != nil {
		return 0, err
	}
	for _, a := range attestations {
		raw, err := image.ReadStatement(a, statementLimit)
		if err != nil {
			return found, err
		}
		var statement struct {
			PredicateType string          `json:"predicateType"`
			Predicate     json.RawMessage `json:"predicate"`
		}
		if err := json.Unmarshal(raw, &statement); err != nil {
			return found, outcome.Errorf(
				outcome.ImageInvalid, "the image in %s: attestation %s: %w", image.Path, a.Statement.Digest, err,
			)
		}
		ending, is := imagelayout.BillOfMaterials(statement.PredicateType)
		if !is {
			continue
		}
		found++
		name := filepath.Join(in.sboms(), strconv.Itoa(found)+ending)
		if err := os.WriteFile(name, statement.Predicate, 0o644); err != nil {
			return found, err
		}
	}
	return found, nil
}
