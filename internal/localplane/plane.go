// Package localplane is a WorkflowPlane on this machine, for one run: what the developer gives of it, and servers of
// its own for the rest. Registry, Git server, token endpoint and OpenChoreo API run inside this process, on loopback.
package localplane

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// Options are what a developer gives of a plane. All paths are absolute.
type Options struct {
	State    string // folder that is kept between runs: images, the API's objects, the build cache
	Builders string // folder of unpacked builder images, which several planes may share

	Source   Source
	Registry Registry
	Signing  Signing
	API      API
	BuildKit BuildKit

	Waiting func(what string) // is told whom the plane waits for; may be nil

	PlainHTTP bool   // to the registries of Push, BuilderImage and RunImage, and to the API
	CABundle  string // PEM file of authorities to trust besides the system's; empty: none
}

// Source says where the source comes from, and the secrets that belong to it.
type Source struct {
	Folder       string // to serve as the repository; empty: the repository of the WorkflowRun
	GitSecret    string // folder of the repository's credentials; empty: none
	InsecureHTTP bool   // the credentials may go over plain HTTP
	BuildSecrets string // folder of the files that a Dockerfile's RUN may read by their names; empty: none
	Bindings     string // folder of the service bindings that buildpacks may read; empty: none
}

// Registry says where images go to, and where those come from that builds start with.
type Registry struct {
	Push         string            // host[:port][/path]; empty: a registry of the plane's own
	DockerConfig string            // docker configuration file to pull and push with; empty: no credentials
	Mirrors      []registry.Mirror // asked before the registry itself, in this order
	Insecure     []string          // hosts, with port if they have one, that are spoken to over plain HTTP

	BuilderImage, RunImage string // instead of those that a template names; empty: those
}

// BuildKit is a daemon that builds Dockerfiles. Without an address the step builds them itself, by runc.
type BuildKit struct {
	Address string // such as tcp://127.0.0.1:1234 or unix:///run/buildkit/buildkitd.sock
	TLSDir  string // folder of ca.crt, tls.crt and tls.key for mutual TLS; empty: only for loopback and sockets
}

// Signing is what the image is signed with.
type Signing struct {
	Key      string // PEM file of a private key; empty: the image is not signed
	Password string // file of the key's password; empty: it has none
}

// API is an OpenChoreo API, and how to get a token for it. Without a URL the plane has one of its own.
type API struct {
	URL                 string
	TokenURL            string // empty: the one that the API's metadata leads to
	ClientID            string
	ClientSecretFile    string // the client has this or the next
	ClientAssertionFile string // read at each request for a token
	Scope               string // scopes to ask for, separated by spaces; empty: none
	ClientAuth          string // client_secret_post or client_secret_basic; empty: the former
	Audience            string // to ask a token for; empty: none
}

// A Plane is what a run needs of a WorkflowPlane. Its options are what the developer gave until Start puts in the
// addresses of the plane's own servers. Close it after use.
type Plane struct {
	Options

	repository  string // URL of the one that Source.Folder became
	ownRegistry bool
	api         *devapi.Server // nil: the developer's own
	closers     []io.Closer
}

// New returns a plane that has started nothing yet. What runs on it can be planned already, to find faults early.
func New(o Options) *Plane { return &Plane{Options: o} }

// The addresses that are taken when they are free, so that an image has the same name, and by its recorded source the
// same digest, in every run.
const (
	registryAddress = "127.0.0.1:27080"
	gitAddress      = "127.0.0.1:27081"
	apiAddress      = "127.0.0.1:27082"
	anyAddress      = "127.0.0.1:0"
)

// sourceBranch is the branch of the repository that Source.Folder becomes.
const sourceBranch = "main"

// Start starts what the developer gave no address of, for one run. It waits for an earlier run of that name, which has
// the same object in the API and the same record. After an error nothing is left running.
func (p *Plane) Start(ctx context.Context, run *workflowrun.Run) (err error) {
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	turn := filepath.Join(p.State, "locks", run.Namespace+"."+run.Name)
	unlock, err := filelock.Claim(ctx, turn, func(holder string) {
		if p.Waiting != nil {
			p.Waiting(fmt.Sprintf("WorkflowRun %q is running already, by %s", run.Name, holder))
		}
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, release(unlock))
	if p.Registry.Push == "" {
		if err := p.startRegistry(filepath.Join(p.State, "registry")); err != nil {
			return err
		}
	}
	if p.Source.Folder != "" {
		if err := p.serveSource(ctx, run.ComponentName()); err != nil {
			return err
		}
	}
	if p.API.URL == "" {
		return p.startAPI(filepath.Join(p.State, "api"), run)
	}
	return nil
}

// insecure are the registries to pull from over plain HTTP.
func (p *Plane) insecure() []string {
	all := slices.Clone(p.Registry.Insecure)
	if !p.PlainHTTP {
		return all
	}
	for _, image := range []string{p.Registry.BuilderImage, p.Registry.RunImage} {
		if ref, err := name.ParseReference(image); err == nil {
			all = append(all, ref.Context().RegistryStr())
		}
	}
	return all
}

func (p *Plane) startRegistry(dir string) error {
	server, err := devregistry.New(devregistry.Options{Dir: dir})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, server)
	p.ownRegistry = true
	return onFree(registryAddress, func(address string) (err error) {
		p.Registry.Push, err = server.Start(address)
		return err
	})
}

// onFree has start listen at the address, or at any free one of loopback when another plane does there.
func onFree(address string, start func(address string) error) error {
	err := start(address)
	if failed, ok := errors.AsType[*net.OpError](err); ok && failed.Op == "listen" {
		err = start(anyAddress)
	}
	return err
}

// WithSource returns the run as it is on this plane: of the folder's one commit, in a public repository, where there is
// a folder.
func (p *Plane) WithSource(run *workflowrun.Run) (*v1alpha1.WorkflowRun, error) {
	here := run.DeepCopy()
	if p.Source.Folder == "" {
		return here, nil
	}
	if run.RepositoryPath(workflowrun.RepositoryURL) == nil {
		return nil, outcome.Errorf(
			outcome.UsageError, "--source: no parameter of %s %q is marked as the URL of a repository",
			run.Spec.Workflow.Kind, run.Spec.Workflow.Name,
		).WithHint("Leave --source out, or mark the parameter with x-openchoreo-component-parameter-repository-url.")
	}
	parameters := map[string]any{}
	if given := run.Spec.Workflow.Parameters; given != nil {
		numbers := json.NewDecoder(bytes.NewReader(given.Raw))
		numbers.UseNumber()
		if err := numbers.Decode(&parameters); err != nil {
			return nil, err
		}
	}
	for field, value := range map[workflowrun.RepositoryField]string{
		workflowrun.RepositoryURL: p.repository, workflowrun.RepositoryBranch: sourceBranch,
		workflowrun.RepositoryCommit: "", workflowrun.SecretRef: "",
	} {
		set(parameters, run.RepositoryPath(field), value)
	}
	raw, err := json.Marshal(parameters)
	here.Spec.Workflow.Parameters = &runtime.RawExtension{Raw: raw}
	return here, err
}

// set gives a field of nested objects a value. An empty path is none.
func set(object map[string]any, path []string, value any) {
	for i, name := range path {
		if i == len(path)-1 {
			object[name] = value
			return
		}
		inner, ok := object[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			object[name] = inner
		}
		object = inner
	}
}

// serveSource makes one commit of the folder and serves it.
func (p *Plane) serveSource(ctx context.Context, name string) error {
	dir, err := p.temporary()
	if err != nil {
		return err
	}
	bare := filepath.Join(dir, name+".git")
	// The time is fixed, so that the same files are the same commit, and their image the same image.
	committed := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	if _, err := devgit.Import(ctx, p.Source.Folder, bare, "Import "+name, committed); err != nil {
		return err
	}
	return onFree(gitAddress, func(address string) error {
		url, err := devgit.Start(ctx, address, &devgit.Handler{Root: dir})
		p.repository = url + "/" + name + ".git"
		return err
	})
}

// startAPI serves an OpenChoreo API that knows the run and its component.
func (p *Plane) startAPI(dir string, run *workflowrun.Run) error {
	secret := rand.Text()
	const client = "stepwright-local"
	api, err := devapi.New(devapi.Options{Dir: dir, ClientID: client, ClientSecret: secret})
	if err != nil {
		return err
	}
	if run.Component == nil {
		known, err := api.Component(run.Namespace, run.ComponentName())
		if err != nil {
			return err
		}
		if known == nil {
			return outcome.Errorf(
				outcome.InvalidParameters,
				"there is no Component %q: the API takes no Workload without it, so give its file, too",
				run.ComponentName(),
			)
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
	secretFile := filepath.Join(secrets, "client-secret")
	if err := os.WriteFile(secretFile, []byte(secret), 0o600); err != nil {
		return err
	}
	var base string
	err = onFree(apiAddress, func(address string) error {
		at, server, err := api.Start(address)
		if err == nil {
			base, p.closers = at, append(p.closers, server)
		}
		return err
	})
	if err != nil {
		return err
	}
	p.api = api
	p.API.URL, p.API.TokenURL, p.API.ClientID, p.API.ClientSecretFile = base, base+devapi.TokenPath, client, secretFile
	return nil
}

func apply(api *devapi.Server, object any) error {
	raw, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return api.Apply(raw)
}

// Annotations are the run's in the plane's own API. Of the developer's own API, which this program has no token for,
// they are not known, and there are none.
func (p *Plane) Annotations(run *workflowrun.Run) (map[string]string, error) {
	if p.api == nil {
		return nil, nil
	}
	stored, err := p.api.WorkflowRun(run.Namespace, run.Name)
	if err != nil {
		return nil, err
	}
	return stored.Annotations, nil
}

// Workload is a Workload as the plane's own API has stored it. Of the developer's own API it is not known, and nil.
func (p *Plane) Workload(namespace, name string) (map[string]any, error) {
	if p.api == nil {
		return nil, nil
	}
	return p.api.Object(namespace, devapi.Workloads, name)
}

// Replaced tells which fields of a run's source do not count beside Source.Folder, with their values: those that the
// WorkflowRun gives and that would have said what to build.
func (p *Plane) Replaced(run *workflowrun.Run) map[string]string {
	replaced := map[string]string{}
	if p.Source.Folder == "" || run.Spec.Workflow.Parameters == nil {
		return replaced
	}
	var given any
	if json.Unmarshal(run.Spec.Workflow.Parameters.Raw, &given) != nil {
		return replaced
	}
	for field, here := range map[workflowrun.RepositoryField]string{
		workflowrun.RepositoryBranch: sourceBranch, workflowrun.RepositoryCommit: "",
	} {
		path := run.RepositoryPath(field)
		at := given
		for _, name := range path {
			object, _ := at.(map[string]any)
			at = object[name]
		}
		if value, _ := at.(string); value != "" && value != here {
			replaced[strings.Join(path, ".")] = value
		}
	}
	return replaced
}

// Describe tells people how to reach what the plane serves.
func (p *Plane) Describe(out io.Writer) {
	if p.ownRegistry {
		fmt.Fprintf(out, "  registry  http://%s    (podman pull --tls-verify=false …)\n", p.Registry.Push)
	}
	if p.api != nil {
		fmt.Fprintf(
			out, "  API       %s    client %s, its secret in %s\n", p.API.URL, p.API.ClientID, p.API.ClientSecretFile,
		)
	}
	if p.repository != "" {
		fmt.Fprintf(out, "  Git       %s\n", p.repository)
	}
}

// temporary makes a folder that Close removes.
func (p *Plane) temporary() (string, error) {
	dir, err := os.MkdirTemp("", "stepwright-plane-")
	if err != nil {
		return "", err
	}
	p.closers = append(p.closers, removal(dir))
	return dir, nil
}

// release is a lock that ends with the plane.
type release func()

func (r release) Close() error {
	r()
	return nil
}

type removal string

func (r removal) Close() error { return os.RemoveAll(string(r)) }

// Close ends the servers, the last first.
func (p *Plane) Close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	p.closers = nil
	return errors.Join(errs...)
}
