package main

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
	"time"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/ci/baseimages"
	"github.com/stepwright/stepwright/ci/devapi"
	"github.com/stepwright/stepwright/ci/devgit"
	"github.com/stepwright/stepwright/ci/devregistry"
	"github.com/stepwright/stepwright/ci/workflowrun"
)

// plane is what a WorkflowPlane gives the steps of a run: addresses of its own servers where the developer named none.
type plane struct {
	repository  string // empty: the one of the WorkflowRun
	buildCache  string
	mirrors     []mirror
	insecure    []string // registries on plain HTTP to pull from
	registry    string
	registryOwn bool

	registryPlainHTTP bool

	apiServerURL, tokenURL     string
	clientID, clientSecretFile string

	api     *devapi.Server // nil: the developer's own
	closers []io.Closer
}

// mirror is an element of containerfile-build's registry-mirrors.
type mirror struct {
	Registry string `json:"registry"`
	Mirror   string `json:"mirror"`
}

// The addresses that are taken when they are free, so that an image has the same name, and by its recorded source the same digest, in every run.
const (
	registryAddress = "127.0.0.1:27080"
	gitAddress      = "127.0.0.1:27081"
	apiAddress      = "127.0.0.1:27082"
	anyAddress      = "127.0.0.1:0"
)

// sourceBranch is the branch of the repository that --source becomes.
const sourceBranch = "main"

// startPlane starts what o gives no address of.
func (o *runOptions) startPlane(ctx context.Context, run *workflowrun.Run) (_ *plane, err error) {
	state, err := filepath.Abs(o.state)
	if err != nil {
		return nil, err
	}
	p := &plane{
		buildCache: filepath.Join(state, "buildkit"), mirrors: []mirror{}, insecure: []string{},
		registry: o.registry, registryPlainHTTP: o.plainHTTP,
		apiServerURL: o.apiServerURL, tokenURL: o.tokenURL, clientID: o.clientID, clientSecretFile: o.clientSecretFile,
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if o.registry == "" {
		if p.registry, err = p.startRegistry(filepath.Join(state, "registry"), registryAddress); err != nil {
			return nil, err
		}
		p.registryOwn, p.registryPlainHTTP = true, true
	}
	if err := p.mirrorBaseImages(ctx, o.baseImages, filepath.Join(state, "mirror")); err != nil {
		return nil, err
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

// mirrorBaseImages makes base images and serves them under the names of the real ones.
func (p *plane) mirrorBaseImages(ctx context.Context, which, dir string) error {
	if which == realImages || which == autoImages && baseimages.Reachable(ctx) {
		return nil
	}
	images, err := baseimages.DefaultDir()
	if err != nil {
		return err
	}
	plain := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == slog.LevelKey {
			return slog.Attr{}
		}
		return a
	}}
	store := baseimages.Store{Dir: images, Log: slog.New(slog.NewTextHandler(os.Stderr, plain))}
	if err := store.Ensure(ctx); err != nil {
		return err
	}
	host, err := p.startRegistry(dir, anyAddress)
	if err != nil {
		return err
	}
	if err := store.Push(ctx, host); err != nil {
		return err
	}
	p.mirrors = append(p.mirrors, mirror{"docker.io", host}, mirror{"gcr.io", host})
	p.insecure = append(p.insecure, host)
	return nil
}

// serveSource makes one commit of a folder and serves it.
func (p *plane) serveSource(ctx context.Context, source, name string) error {
	dir, err := p.temporary()
	if err != nil {
		return err
	}
	bare := filepath.Join(dir, name+".git")
	// The time is fixed, so that the same files are the same commit, and their image the same image.
	if _, err := devgit.Import(ctx, source, bare, "Import "+name, time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)); err != nil {
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
			return &workflowrun.InvalidError{Faults: []string{fmt.Sprintf("there is no Component %q: the API takes no Workload without it, so give its file, too", run.ComponentName())}}
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
		fmt.Fprintf(out, "  API       %s    client %s, its secret in %s\n", p.apiServerURL, p.clientID, p.clientSecretFile)
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
