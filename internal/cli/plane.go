package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
)

// plane is what a WorkflowPlane gives the steps of a run: addresses of its own servers where the developer named none.
type plane struct {
	repository  string // empty: the one of the WorkflowRun
	buildCache  string
	builders    string // folder of unpacked builder images
	mirrors     []registryMirror
	insecure    []string // registries on plain HTTP to pull from
	registry    string
	registryOwn bool

	registryPlainHTTP bool

	builderImage, runImage string // instead of a template's own; empty: those

	apiServerURL, tokenURL     string
	clientID, clientSecretFile string

	api     *devapi.Server // nil: the developer's own
	closers []io.Closer
}

// registryMirror is an element of containerfile-build's registry-mirrors.
type registryMirror struct {
	Registry string `json:"registry"`
	Mirror   string `json:"mirror"`
}

// The addresses that are taken when they are free, so that an image has the same name, and by its recorded source the
// same digest, in every run.
const (
	registryAddress = "127.0.0.1:27080"
	gitAddress      = "127.0.0.1:27081"
	apiAddress      = "127.0.0.1:27082"
	anyAddress      = "127.0.0.1:0"
)

// sourceBranch is the branch of the repository that --source becomes.
const sourceBranch = "main"

// startPlane starts what o gives no address of. builder is the image of buildpacks that the run builds with; empty
// where it has a Dockerfile.
func (o *runOptions) startPlane(ctx context.Context, run *workflowrun.Run, builder string) (_ *plane, err error) {
	state, err := filepath.Abs(o.state)
	if err != nil {
		return nil, err
	}
	images, err := baseimages.DefaultDir()
	if err != nil {
		return nil, err
	}
	p := &plane{
		buildCache: filepath.Join(state, "buildkit"), builders: filepath.Join(filepath.Dir(images), "builders"),
		mirrors: []registryMirror{}, insecure: []string{},
		registry: o.registry, registryPlainHTTP: o.plainHTTP,
		apiServerURL: o.apiServerURL, tokenURL: o.tokenURL, clientID: o.clientID, clientSecretFile: o.clientSecretFile,
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if o.plainHTTP {
		for _, image := range []string{o.builderImage, o.runImage} {
			if ref, err := name.ParseReference(image); err == nil {
				p.insecure = append(p.insecure, ref.Context().RegistryStr())
			}
		}
	}
	if o.registry == "" {
		if p.registry, err = p.startRegistry(filepath.Join(state, "registry"), registryAddress); err != nil {
			return nil, err
		}
		p.registryOwn, p.registryPlainHTTP = true, true
	}
	if made(ctx, o.baseImages) {
		host, err := p.startMirror(filepath.Join(state, "mirror"))
		if err != nil {
			return nil, err
		}
		if builder == "" {
			err = mirrorBaseImages(ctx, images, host)
		} else if o.builderImage == "" || o.runImage == "" {
			err = p.mirrorBuilder(ctx, images, host, builder)
		}
		if err != nil {
			return nil, err
		}
	}
	if o.source != "" {
		if err := p.serveSource(ctx, o.source, run.ComponentName()); err != nil {
			return nil, err
		}
	}
	if o.apiServerURL == "" {
		if err := p.startAPI(filepath.Join(state, "api"), run); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *plane) startRegistry(dir, address string) (host string, err error) {
	registry, err := devregistry.New(devregistry.Options{Dir: dir})
	if err != nil {
		return "", err
	}
	p.closers = append(p.closers, registry)
	return registry.Start(free(address))
}

// free returns the address when nothing listens there, else any free one of loopback.
func free(address string) string {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return anyAddress
	}
	l.Close()
	return address
}

// The values of --base-images.
const (
	realImages = "real" // from their registries
	madeImages = "made" // from Debian packages, by this machine
	autoImages = "auto" // real where the registries answer, else made
)

// made tells whether images are to be made.
func made(ctx context.Context, which string) bool {
	return which == madeImages || which == autoImages && !mirror.Reachable(ctx)
}

// startMirror starts a registry for images under the names of the real ones.
func (p *plane) startMirror(dir string) (host string, err error) {
	host, err = p.startRegistry(dir, anyAddress)
	for _, registry := range []string{"docker.io", "gcr.io", "ghcr.io"} {
		p.mirrors = append(p.mirrors, registryMirror{registry, host})
	}
	p.insecure = append(p.insecure, host)
	return host, err
}

// plainLog is for people.
func plainLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// mirrorBaseImages makes what Dockerfiles start from.
func mirrorBaseImages(ctx context.Context, dir, mirror string) error {
	store := baseimages.Store{Dir: dir, Log: plainLog()}
	if err := store.Ensure(ctx); err != nil {
		return err
	}
	return store.Push(ctx, mirror)
}

// mirrorBuilder makes the builder for tests that stands in for an image, and its run image.
func (p *plane) mirrorBuilder(ctx context.Context, dir, mirror, image string) error {
	wanted, err := name.ParseReference(image)
	if err != nil {
		return fmt.Errorf("the builder's image: %w", err)
	}
	for _, family := range testbuilders.Families {
		if known, err := name.ParseReference(family.Builder); err != nil || known.Context() != wanted.Context() {
			continue
		}
		store := testbuilders.Store{Dir: dir, Log: plainLog()}
		if err := store.Ensure(ctx); err != nil {
			return err
		}
		if err := store.Push(ctx, mirror, family); err != nil {
			return err
		}
		if p.builderImage, err = pinned(store, family.Builder); err != nil {
			return err
		}
		if p.runImage, err = pinned(store, family.Run); err != nil {
			return err
		}
		fmt.Fprintf(
			os.Stderr, "Building with a builder for tests, %s, and its run image, instead of %s\n", p.builderImage,
			image,
		)
		return nil
	}
	return fmt.Errorf(
		"there is no builder for tests that stands in for %s: name one with --builder-image and --run-image", image,
	)
}

// pinned is an image's name with its digest.
func pinned(store testbuilders.Store, image string) (string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return "", err
	}
	found, err := store.Image(image)
	if err != nil {
		return "", err
	}
	digest, err := found.Digest()
	repository, _, _ := strings.Cut(image, ":"+ref.Identifier())
	return repository + "@" + digest.String(), err
}

// builder is the image of buildpacks that a rendered workflow builds with, as its template names it; empty where it
// builds with none.
func (o *runOptions) builder(rendered map[string]any) (string, error) {
	library, err := o.library()
	if err != nil {
		return "", err
	}
	workflow, err := plan.Decode(rendered)
	if err != nil {
		return "", err
	}
	for _, cluster := range library.WithSchema("buildpacks-build") {
		for _, template := range cluster.Spec.Templates {
			if plan.Refers(workflow, cluster.Name) && template.Container != nil {
				return template.Container.Image, nil
			}
		}
	}
	return "", nil
}

// serveSource makes one commit of a folder and serves it.
func (p *plane) serveSource(ctx context.Context, source, name string) error {
	dir, err := p.temporary()
	if err != nil {
		return err
	}
	bare := filepath.Join(dir, name+".git")
	// The time is fixed, so that the same files are the same commit, and their image the same image.
	if _, err := devgit.Import(ctx, source, bare, "Import "+
		name, time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		return err
	}
	url, err := devgit.Start(ctx, free(gitAddress), &devgit.Handler{Root: dir})
	if err != nil {
		return err
	}
	p.repository = url + "/" + name + ".git"
	return nil
}

// startAPI serves an OpenChoreo API that knows the run and its component.
func (p *plane) startAPI(dir string, run *workflowrun.Run) error {
	secret := rand.Text()
	p.clientID = "stepwright-local"
	api, err := devapi.New(devapi.Options{Dir: dir, ClientID: p.clientID, ClientSecret: secret})
	if err != nil {
		return err
	}
	if run.Component == nil {
		known, err := api.Component(run.Namespace, run.ComponentName())
		if err != nil {
			return err
		}
		if known == nil {
			return &workflowrun.InvalidError{
				Faults: []string{
					fmt.Sprintf(
						"there is no Component %q: the API takes no Workload without it, so give its file, too",
						run.ComponentName(),
					),
				},
			}
		}
	} else if err := apply(api, run.Component); err != nil {
		return err
	}
	// A run that is run again is a new one: with its old age, one that was run since would count as newer.
	if err := api.Delete(run.Namespace, devapi.WorkflowRuns, run.Name); err != nil {
		return err
	}
	if err := apply(api, run.WorkflowRun); err != nil {
		return err
	}
	secrets, err := p.temporary()
	if err != nil {
		return err
	}
	p.clientSecretFile = filepath.Join(secrets, "client-secret")
	if err := os.WriteFile(p.clientSecretFile, []byte(secret), 0o600); err != nil {
		return err
	}
	base, server, err := api.Start(free(apiAddress))
	if err != nil {
		return err
	}
	p.closers = append(p.closers, server)
	p.api, p.apiServerURL, p.tokenURL = api, base, base+devapi.TokenPath
	return nil
}

func apply(api *devapi.Server, object any) error {
	raw, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return api.Apply(raw)
}

// errNotOurs says that the API is the developer's own, which this program has no token for.
var errNotOurs = errors.New("the API is not this program's")

// annotations are those of the run.
func (p *plane) annotations(run *workflowrun.Run) (map[string]string, error) {
	if p.api == nil {
		return nil, errNotOurs
	}
	stored, err := p.api.WorkflowRun(run.Namespace, run.Name)
	if err != nil {
		return nil, err
	}
	return stored.Annotations, nil
}

// describe tells how to reach what keeps serving.
func (p *plane) describe(out io.Writer) {
	fmt.Fprintln(out, "\nServing until interrupted:")
	if p.registryOwn {
		fmt.Fprintf(out, "  registry  http://%s    (podman pull --tls-verify=false …)\n", p.registry)
	}
	if p.api != nil {
		fmt.Fprintf(
			out, "  API       %s    client %s, its secret in %s\n", p.apiServerURL, p.clientID, p.clientSecretFile,
		)
	}
	if p.repository != "" {
		fmt.Fprintf(out, "  Git       %s\n", p.repository)
	}
}

// temporary makes a folder that Close removes.
func (p *plane) temporary() (string, error) {
	dir, err := os.MkdirTemp("", "stepwright-plane-")
	if err != nil {
		return "", err
	}
	p.closers = append(p.closers, removal(dir))
	return dir, nil
}

type removal string

func (r removal) Close() error { return os.RemoveAll(string(r)) }

// Close ends the servers, the last first.
func (p *plane) Close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	p.closers = nil
	return errors.Join(errs...)
}
