package buildpack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/renameio/v2"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// fetched is the folder in which Fetch leaves what a build needs. Where buildpacks run, nothing can be written there.
type fetched string

func (in Parameters) fetched() fetched { return fetched(in.FetchedDir) }

// images by registry, repository and tag or digest
func (f fetched) layout() string { return filepath.Join(string(f), "layout") }

// the cache as it came: an OCI image layout
func (f fetched) imported() imagelayout.Dir {
	return imagelayout.Dir(filepath.Join(string(f), "imported"))
}

// importedSize is the size of the cache as it came, in bytes.
func (f fetched) importedSize() (n int64) {
	_ = filepath.WalkDir(string(f.imported()), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n
}

// the cache's layers, unpacked: <diff ID>.tar, and the lifecycle's metadata
func (f fetched) unpacked() string { return filepath.Join(string(f), "cache") }
func (f fetched) record() string   { return filepath.Join(string(f), "fetched.json") }

// record is how fetching ended.
type record struct {
	Times   *times          `json:"times,omitempty"`
	Base    *registry.Image `json:"base,omitempty"`
	Failure *outcome.Error  `json:"failure,omitempty"`
}

// Fetch gets from registries what a build needs: manifest and configuration of the run image, and the cache. In a pod
// it runs in an init container, so that the credentials for registries are not where buildpacks run. That it fails, it
// leaves for Seal to say, which is where people look.
func Fetch(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	times := newTimes()
	base, err := fetch(ctx, in, env, times)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r := record{Base: &base, Times: times}
	if err != nil {
		failure := *outcome.Of(err)
		failure.Message, failure.Hint = env.Secrets.String(failure.Message), env.Secrets.String(failure.Hint)
		failure.Cause = nil
		r = record{Failure: &failure, Times: times}
		env.Log.Error("The build will end with this", "reason", failure.Reason, "message", failure.Message)
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(string(in.fetched()), 0o755); err != nil {
		return nil, err
	}
	return nil, renameio.WriteFile(in.fetched().record(), raw, 0o644)
}

// read returns the run image that Fetch has found. An *outcome.Error is the failure that Fetch has left.
func (f fetched) read() (registry.Image, error) {
	r, err := f.readRecord()
	if err != nil {
		return registry.Image{}, err
	}
	if r.Failure != nil {
		return registry.Image{}, r.Failure
	}
	if r.Base == nil {
		return registry.Image{}, fmt.Errorf("%s tells nothing", f.record())
	}
	return *r.Base, nil
}

// readRecord reads how fetching ended.
func (f fetched) readRecord() (r record, err error) {
	raw, err := os.ReadFile(f.record())
	if errors.Is(err, fs.ErrNotExist) {
		return r, outcome.Errorf(
			outcome.InvalidParameters, "fetched-dir: nothing is there that fetch has left: %w", err,
		).WithHint("Run the commands fetch, build and seal one after the other, or all in their place.")
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", f.record(), err)
	}
	return r, nil
}

// fetch gets run image and cache, and notes what took how long.
func fetch(ctx context.Context, in Parameters, env step.Environment, times *times) (registry.Image, error) {
	started := time.Now()
	files := in.fetched()
	for _, dir := range []string{files.layout(), files.unpacked(), string(files.imported())} {
		if err := handover.Clear(dir); err != nil {
			return registry.Image{}, err
		}
	}
	transport, err := trust.Transport(in.CABundle)
	if err != nil {
		return registry.Image{}, err
	}
	defer transport.CloseIdleConnections()
	if in.PullSecretRequired {
		if err := in.Await(ctx, env.Log, outcome.AuthenticationFailed, in.RegistryPullSecret); err != nil {
			return registry.Image{}, err
		}
	}
	credentials, err := registry.LoadCredentials(in.RegistryPullSecret, env.Secrets)
	if err != nil {
		return registry.Image{}, err
	}
	if warning := credentials.Warning(); warning != "" {
		env.Log.Warn(warning)
	}
	source := registry.Source{
		Mirrors:     in.RegistryMirrors,
		Insecure:    in.InsecureRegistries,
		Credentials: credentials,
		Transport:   transport,
	}
	var base registry.Image
	err = env.Retry.Do(ctx, func(ctx context.Context) error {
		base, err = source.Image(ctx, in.RunImage, platform)
		return err
	})
	times.add(buildreport.Part{
		Name: "manifest of the run image " + in.RunImage, Kind: buildreport.Base, Status: buildreport.Downloaded,
		Bytes: int64(len(base.Manifest) + len(base.Config)),
	}, started, err)
	if err != nil {
		return base, fmt.Errorf("run-image: %w", err)
	}
	if err := writeBase(files.layout(), base); err != nil {
		return base, err
	}
	env.Log.Info("Fetched the run image's manifest", "image", base.Reference, "took", time.Since(started))
	if in.Cache != cacheReuse || in.Rebuild || in.Registry == "" {
		return base, nil
	}
	started = time.Now()
	if in.InsecurePlainHTTP {
		host, _, _ := strings.Cut(in.Registry, "/")
		source.Insecure = append(source.Insecure, host)
	}
	source.Mirrors = nil // the cache is where it was pushed to
	reference := in.cacheReference()
	layers, err := importCache(ctx, source, env, reference, in.Owner.Label(), files)
	if err == nil {
		times.add(buildreport.Part{
			Name: "cache of the last build", Kind: buildreport.Source, Status: buildreport.Downloaded,
			Bytes: files.importedSize(),
		}, started, nil)
		env.Log.Info(
			"Took the cache of the last build", "cache", reference, "layers", layers, "took", time.Since(started),
		)
		return base, nil
	}
	if ctx.Err() != nil {
		return base, context.Cause(ctx)
	}
	// A build without a cache is a build.
	if err := errors.Join(handover.Clear(files.unpacked()), handover.Clear(string(files.imported()))); err != nil {
		return base, err
	}
	if registry.IsMissing(err) {
		env.Log.Info("There is no cache yet", "cache", reference)
	} else {
		env.Log.Warn("Building without the cache", "cache", reference, "error", err)
	}
	return base, nil
}

// writeBase writes the run image, without its layers, to where the lifecycle looks for localReference in a layout.
func writeBase(layout string, base registry.Image) error {
	digest := base.Descriptor.Digest
	dir := imagelayout.Dir(filepath.Join(layout, localRegistry, "run", digest.Algorithm, digest.Hex))
	var manifest v1.Manifest
	if err := json.Unmarshal(base.Manifest, &manifest); err != nil {
		return err
	}
	if err := dir.WriteBlob(manifest.Config.Digest, base.Config); err != nil {
		return err
	}
	if err := dir.WriteBlob(digest, base.Manifest); err != nil {
		return err
	}
	return dir.WriteIndex(base.Descriptor)
}

// localRegistry begins the references that the lifecycle is given: they only decide on folders in its layout. The real
// ones will not do: it takes the folder of the run image for a reference again, in which a port has no place.
const localRegistry = "stepwright.local"

func localReference(base registry.Image) string {
	return localRegistry + "/run@" + base.Descriptor.Digest.String()
}
