package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2/maybe"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/descriptor"
	"github.com/stepwright/stepwright/internal/localplane"
	"github.com/stepwright/stepwright/internal/localplane/console"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/schemas"
)

func runCommand() *cobra.Command {
	r := newRunner()
	r.addFiles(r.flags)
	cmd := &cobra.Command{
		Use:   "run [flags] FILE|FOLDER...",
		Short: "Run a WorkflowRun on this machine: check out, build, publish, make the Workload",
		Long: `Run a WorkflowRun on this machine: check out, build, publish, make the Workload.

The files hold the WorkflowRun and, if there is one, its Component; of a folder, every YAML file is
read. All of it is checked before anything starts, and every fault is listed.

Where the files hold a Component and no WorkflowRun, or --component names one, its own workflow is
run, under the name COMPONENT-build-TIME, as occ component workflow run does. In a cluster with
OpenChoreo the Component needs no file. --set changes parameters: its paths are those of occ, or
begin at the parameters.

What runs are the templates that a WorkflowPlane has installed: the WorkflowRun is rendered as
OpenChoreo does, and each container's command, variables, volumes and outputs become those of a
process. Settings of the platform have the values of this machine.

A buildpack builder's container is entered by runc: its image unpacked, as the user that the
template names, without capabilities, its root file system read-only. An ordinary user needs
newuidmap and a range in /etc/subuid for that. Builders and run images are those that the templates
name by digest, or those of --builder-image and --run-image.

Dockerfiles are built by the step itself, for which runc must be there, or by the BuildKit daemon at
--buildkit-address, such as the one of Docker Desktop or Colima; base images then come from where that
daemon finds them.

Images come from their registries, or first from the mirrors that --registry-mirror names.

Templates with the component signing-key sign the image with the key of --signing-key, and nothing
without that flag. Only a cluster has the identity that signing-keyless signs with: nothing is
signed then. The run says so at its beginning.

What a WorkflowPlane would have runs inside this process where no address is given: a registry, an
OAuth token endpoint, and an OpenChoreo API that keeps its objects as files. They live below --state
and their addresses are on loopback.

With --cluster nothing runs here, but in the cluster that kubectl uses, or that of --kubeconfig. In
a cluster that has OpenChoreo the WorkflowRun is created; in one that has only Argo, the objects that
OpenChoreo would make of it, except for the namespace, which must be there already. The logs are
shown until the run ends; an interrupt ends only the showing. On macOS and Windows that is the only
way, but for a Linux in a virtual machine: the steps are programs for Linux.`,
		Example: `  stepwright run examples/greeting-service --source examples/greeting-service
  stepwright run component.yaml workflowrun.yaml --git-secret-dir ~/.secrets/git
  stepwright run app/ --registry-mirror docker.io=mirror.example.com/hub --registry-mirror gcr.io=mirror.example.com/gcr
  stepwright run app/ --registry registry.example.com --docker-config ~/.docker/config.json \
      --api-server-url https://api.example.com --oauth-token-url https://idp.example.com/oauth2/token \
      --oauth-client-id publisher --oauth-client-secret-file ./client-secret
  stepwright run app/ --cluster --kubeconfig ~/.kube/config
  stepwright run component.yaml --set repository.revision.commit=6dcb09b
  stepwright run --cluster --component cart -n acme`,
	}
	r.addTo(cmd)
	return cmd
}

// runner is what the commands that run something have in common.
type runner struct {
	*whichOptions
	here  runOptions
	there submitOptions
	local *pflag.FlagSet // the flags about runs on this machine
	flags *pflag.FlagSet // all
}

func newRunner() *runner {
	which := new(whichOptions)
	r := &runner{
		whichOptions: which,
		here:         runOptions{whichOptions: which},
		there:        submitOptions{whichOptions: which},
		local:        pflag.NewFlagSet("", pflag.ContinueOnError),
		flags:        pflag.NewFlagSet("", pflag.ContinueOnError),
	}
	r.here.addTo(r.local)
	which.addTo(r.flags)
	r.there.addTo(r.flags)
	r.flags.AddFlagSet(r.local)
	return r
}

// addTo makes a command run what its arguments name.
func (r *runner) addTo(cmd *cobra.Command) {
	cmd.Flags().AddFlagSet(r.flags)
	cmd.MarkFlagsRequiredTogether("api-server-url", "oauth-client-id")
	cmd.MarkFlagsMutuallyExclusive("oauth-client-secret-file", "oauth-client-assertion-file")
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		if len(files) == 0 && !(r.there.cluster && r.component != "") {
			return outcome.Misuse("requires at least 1 FILE or FOLDER, or --cluster and --component")
		}
		return r.run(cmd, files)
	}
}

// run runs what the files say, here or in a cluster.
func (r *runner) run(cmd *cobra.Command, files []string) error {
	to := streams{cmd.OutOrStdout(), cmd.ErrOrStderr()}
	if r.there.cluster {
		if err := refuse(r.local); err != nil {
			return err
		}
		return r.there.submit(cmd.Context(), to, files)
	}
	if faults := r.there.unneeded(); len(faults) > 0 {
		return outcome.Misuse(faults...)
	}
	if err := runsOn(runtime.GOOS); err != nil {
		return err
	}
	return r.here.run(cmd.Context(), to, files)
}

// runsOn tells why a run cannot be on this machine, of which os is the operating system.
func runsOn(os string) error {
	if os == "linux" {
		return nil
	}
	return outcome.Misuse(fmt.Sprintf(
		"run: its steps are programs for Linux, and this is %s. Run stepwright in Linux, such as WSL 2, the virtual "+
			"machine of Colima or a development container: Dockerfiles build there by --buildkit-address, with the "+
			"BuildKit daemon of Docker Desktop or Colima, and need neither root nor runc. Or run it in a cluster, by "+
			"--cluster and --kubeconfig. The other commands work here", os,
	))
}

// whichOptions say what to run and how to show it, wherever it runs.
type whichOptions struct {
	name      string
	component string
	namespace string
	set       []string
	templates templates
	output    string

	again *v1alpha1.WorkflowRun // the run to do once more; nil: what the files say
}

func (o *whichOptions) addTo(f *pflag.FlagSet) {
	f.StringArrayVar(
		&o.set, "set", nil,
		"PATH=VALUE: a parameter with another value, such as repository.revision.branch=main; may be repeated",
	)
	o.templates.addTo(f)
	f.StringVarP(
		&o.output, "output", "o", "", "print the WorkflowRun with its status instead of what it made: yaml or json",
	)
}

// addFiles adds the flags that choose among what files hold.
func (o *whichOptions) addFiles(f *pflag.FlagSet) {
	f.StringVar(&o.name, "name", "", "WorkflowRun to run, where the files hold several")
	f.StringVar(
		&o.component, "component", "",
		"Component to build by its own workflow, as occ component workflow run does, instead of a WorkflowRun",
	)
	f.StringVarP(&o.namespace, "namespace", "n", "", "namespace of --component (default: the one that has it)")
}

// pick is the WorkflowRun to run, of the files or made of one of their Components, with the values of --set.
func (o *whichOptions) pick(set *objects.Set) (run *objects.Object, err error) {
	switch {
	case o.again != nil:
		run, err = workflowrun.Again(set, o.again, time.Now())
	case o.component != "" || o.name == "" && len(set.OfKind("WorkflowRun")) == 0:
		run, err = workflowrun.OfComponent(set, o.namespace, o.component, time.Now())
	default:
		run, err = workflowrun.Pick(set, o.name)
	}
	if err != nil || len(o.set) == 0 {
		return run, err
	}
	return workflowrun.Set(set, run, o.set)
}

// faults returns the faults of the options.
func (o *whichOptions) faults() []string {
	if slices.Contains([]string{"", "yaml", "json"}, o.output) {
		return nil
	}
	return []string{notAForm(o.output)}
}

// streams are the command's two outputs: for results, and for messages.
type streams struct{ out, err io.Writer }

// runOptions are the flags of a run on this machine.
type runOptions struct {
	*whichOptions
	plane    localplane.Options
	mirrors  []string // HOST=MIRROR
	stepsDir string

	keep        bool
	keepServing bool
}

func (o *runOptions) addTo(f *pflag.FlagSet) {
	f.StringVar(
		&o.plane.State, "state", defaultState(),
		"folder of what is kept between runs: images, the API's objects, the build cache",
	)
	f.StringVar(&o.stepsDir, "steps-dir", "", "folder of the steps' binaries (default: that of this program)")
	f.BoolVar(&o.keep, "keep", false, "keep the workspace")
	f.BoolVar(&o.keepServing, "keep-serving", false, "keep registry and API up until interrupted")
	f.BoolVar(
		&o.plane.PlainHTTP, "insecure-plain-http", false,
		"speak plain HTTP to the registries of --registry, --builder-image and --run-image, to --api-server-url and "+
			"--oauth-token-url",
	)
	f.StringVar(&o.plane.CABundle, "ca-bundle", "", "PEM file of certificate authorities to trust besides the system's")
	addSource(f, &o.plane.Source)
	addRegistry(f, &o.plane.Registry)
	f.StringArrayVar(
		&o.mirrors, "registry-mirror", nil,
		"HOST=MIRROR: ask a mirror, host[:port][/path], for the images of the registry HOST first, such as "+
			"docker.io=mirror.example.com/hub; may be repeated",
	)
	f.StringVar(
		&o.plane.BuildKit.Address, "buildkit-address", "",
		"BuildKit daemon that builds Dockerfiles, such as tcp://127.0.0.1:1234 or "+
			"unix:///run/buildkit/buildkitd.sock; runc is not needed then (default: the step builds by itself)",
	)
	f.StringVar(
		&o.plane.BuildKit.TLSDir, "buildkit-tls-dir", "",
		"folder of ca.crt, tls.crt and tls.key for mutual TLS with --buildkit-address",
	)
	addSigning(f, &o.plane.Signing)
	addAPI(f, &o.plane.API)
}

func addSigning(f *pflag.FlagSet, o *localplane.Signing) {
	f.StringVar(
		&o.Key, "signing-key", "",
		"PEM file of the private key that the image is signed with, by templates with the component signing-key",
	)
	f.StringVar(&o.Password, "signing-password-file", "", "file with the password of --signing-key")
}

func addSource(f *pflag.FlagSet, o *localplane.Source) {
	f.StringVar(
		&o.Folder, "source", "",
		"folder to use as the repository instead of repository.url: its files become one commit, served by a real "+
			"Git server",
	)
	f.StringVar(
		&o.GitSecret, "git-secret-dir", "",
		"folder with the repository's credentials: ssh-privatekey, or username and password; they go to the host of "+
			"repository.url, or to those in its file git-hosts",
	)
	f.BoolVar(
		&o.InsecureHTTP, "insecure-git-http", false, "send the repository's credentials over plain HTTP, too",
	)
	f.StringVar(
		&o.BuildSecrets, "build-secrets-dir", "",
		"folder of files that RUN --mount=type=secret may read by their names, such as those of buildSecrets",
	)
	f.StringVar(
		&o.Bindings, "bindings-dir", "",
		"folder of service bindings for buildpacks, each a folder with a file type: npm/type, npm/.npmrc",
	)
}

func addRegistry(f *pflag.FlagSet, o *localplane.Registry) {
	f.StringVar(&o.Push, "registry", "", "registry to push to (default: one inside this process)")
	f.StringVar(
		&o.DockerConfig, "docker-config", "", "docker configuration file with the credentials to pull and push with",
	)
	f.StringArrayVar(
		&o.Insecure, "insecure-registry", nil,
		"registry or mirror, host[:port], to pull from over plain HTTP; may be repeated",
	)
	f.StringVar(&o.BuilderImage, "builder-image", "", "image of buildpacks to build with instead of the template's own")
	f.StringVar(
		&o.RunImage, "run-image", "", "image that what buildpacks build starts with, instead of the template's own",
	)
}

func addAPI(f *pflag.FlagSet, o *localplane.API) {
	f.StringVar(&o.URL, "api-server-url", "", "OpenChoreo API (default: one inside this process)")
	f.StringVar(&o.TokenURL, "oauth-token-url", "",
		"token endpoint for --api-server-url (default: the one that the API's metadata leads to)")
	f.StringVar(&o.ClientID, "oauth-client-id", "", "client for --api-server-url")
	f.StringVar(&o.ClientSecretFile, "oauth-client-secret-file", "", "file with the client's secret")
	f.StringVar(
		&o.ClientAssertionFile, "oauth-client-assertion-file", "",
		"file with a JWT that proves who the client is, instead of a secret; it is read at each request for a token",
	)
	f.StringVar(&o.Scope, "oauth-scope", "", "scopes to ask for")
	f.StringVar(&o.ClientAuth, "oauth-client-auth", "", "client_secret_post (default) or client_secret_basic")
	f.StringVar(&o.Audience, "oauth-audience", "", "audience to ask a token for")
}

// run runs a WorkflowRun on this machine.
func (o *runOptions) run(ctx context.Context, to streams, files []string) (err error) {
	run, err := o.load(files)
	if err != nil {
		return err
	}
	if err := o.check(run); err != nil {
		return err
	}
	library, err := o.templates.library()
	if err != nil {
		return err
	}
	o.plane.Waiting = func(what string) { fmt.Fprintf(to.err, "Waiting: %s\n", what) }
	if o.plane.Signing.Key != "" && !localplane.TakesKey(library) {
		return outcome.Misuse("--signing-key: the templates have no component signing-key, which signs with it")
	}
	plane := localplane.New(o.plane)
	// Before the plane starts, too: faults of run or templates must not be found only after that.
	if _, _, err := o.planOf(ctx, run, library, plane, os.TempDir()); err != nil {
		return o.templates.blamed(err)
	}
	if err := o.checkDescriptor(run); err != nil {
		return err
	}
	if how := plane.Unsigned(library); how != "" {
		fmt.Fprintf(to.err, "%s\n", unsigned[how])
	}
	for field, value := range sorted(plane.Replaced(run)) {
		fmt.Fprintf(
			to.err, "%s %q of the WorkflowRun does not count: --source builds the files of %s as they are\n", field,
			value, o.plane.Source.Folder,
		)
	}
	if err := plane.Start(ctx, run); err != nil {
		return err
	}
	defer plane.Close()
	scratch, err := os.MkdirTemp("", "stepwright-"+run.Name+"-")
	if err != nil {
		return err
	}
	workspace := filepath.Join(scratch, "workspace")
	if o.keep {
		fmt.Fprintf(to.err, "The workspace is %s\n", workspace)
	} else {
		defer os.RemoveAll(scratch)
	}
	workflow, steps, err := o.planOf(ctx, run, library, plane, scratch)
	if err != nil {
		return err
	}
	record, err := runsOf(o.plane.State).Create(run.WorkflowRun, workflow)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	view := viewOn(to.err, names)
	outputs, failure := pipeline.Run(ctx, steps, pipeline.Observers{view, record})
	view.Close()
	record.Keep(outputs)
	annotations, err := plane.Annotations(run)
	if err != nil {
		failure = errors.Join(failure, err)
	}
	ended, err := record.End(failure, annotations)
	if err != nil {
		return errors.Join(failure, err)
	}
	shown := o.picture(ctx, ended)
	if o.output != "" {
		if err := printObject(to.out, o.output, ended); err != nil {
			return errors.Join(failure, err)
		}
	}
	if failure != nil {
		fmt.Fprintln(to.err, shown)
		return failure
	}
	if o.output == "" {
		made := made{image: last(names, outputs, "image"), workload: last(names, outputs, "workload")}
		file := filepath.Join(plan.Volume(scratch, names[len(names)-1], "results"), workloadFile)
		if made.object, err = stored(plane, run, made.workload, file); err != nil {
			return err
		}
		made.annotations = annotations
		made.print(to.out, run)
	}
	fmt.Fprintln(to.err, shown)
	if o.keepServing {
		fmt.Fprintln(to.out, "\nServing until interrupted:")
		plane.Describe(to.out)
		<-ctx.Done()
	}
	return nil
}

// picture makes the picture of a run that has ended, beside its other files, and says where it is, or why it is not
// there: that is no reason for a run to fail.
func (o *runOptions) picture(ctx context.Context, run *v1alpha1.WorkflowRun) string {
	runs := runsOf(o.plane.State)
	page, err := picture(context.WithoutCancel(ctx), machine{runs}, run) // a run that was cancelled has one, too
	if err == nil {
		err = maybe.WriteFile(runs.Report(run), page, 0o644)
	}
	if err != nil {
		return "There is no picture of the run: " + cell(err.Error())
	}
	return "Picture of the run: " + runs.Report(run)
}

// load reads the run. Templates that somebody gave hold workflows, too.
func (o *runOptions) load(files []string) (*workflowrun.Run, error) {
	set, err := objects.Load(files...)
	if o.templates.dir != "" {
		set, err = o.templates.with(set, err)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	object, err := o.pick(set)
	if err != nil {
		return nil, err
	}
	return workflowrun.Of(set, object.Name, false)
}

// viewOn shows a pipeline: live where a terminal is.
func viewOn(out io.Writer, steps []string) console.View {
	if file, ok := out.(*os.File); ok {
		return console.New(file, steps)
	}
	return console.NewPlain(out, steps)
}

// runsOf are the runs that were run with that state.
func runsOf(state string) history.Store { return history.Store{Dir: filepath.Join(state, "runs")} }

// planOf renders a run as OpenChoreo does and makes the steps of the Argo Workflow that comes of it.
func (o *runOptions) planOf(
	ctx context.Context, run *workflowrun.Run, library *plan.Library, plane *localplane.Plane, scratch string,
) (map[string]any, []pipeline.Step, error) {
	definition := run.Workflow
	if definition == nil {
		installed, err := library.Workflow(run.Spec.Workflow.Name)
		if err != nil {
			return nil, nil, err
		}
		definition = &installed
	}
	from, err := plane.WithSource(run)
	if err != nil {
		return nil, nil, err
	}
	rendered, err := render.Render(render.Input{
		Run: from, Workflow: *definition, SecretStore: "local",
		// Whatever the SecretReference is, here its Secret is --git-secret-dir.
		SecretReference: func(name string) *v1alpha1.SecretReference {
			return &v1alpha1.SecretReference{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: from.Namespace},
				Spec:       v1alpha1.SecretReferenceSpec{Data: []v1alpha1.SecretDataSource{}},
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	workflow, err := plan.Decode(rendered.Workflow)
	if err != nil {
		return nil, nil, err
	}
	if err := o.checkSecrets(run, library.Schemas(workflow)); err != nil {
		return nil, nil, err
	}
	steps, err := plan.Plan(ctx, workflow, library, plane.Machine(run, library, o.stepsDir, scratch))
	return rendered.Workflow, steps, err
}

// check refuses what would fail only after minutes, and makes paths absolute: a step runs in another folder.
func (o *runOptions) check(run *workflowrun.Run) error {
	faults := append(o.faults(), o.parseMirrors()...)
	if api := o.plane.API; (api.URL != "") != (api.ClientSecretFile != "" || api.ClientAssertionFile != "") {
		faults = append(faults, "--api-server-url wants --oauth-client-secret-file or --oauth-client-assertion-file, "+
			"and each of them is for it")
	}
	if ref := run.Repository(workflowrun.SecretRef); ref != "" && o.plane.Source.GitSecret == "" &&
		o.plane.Source.Folder == "" {
		faults = append(
			faults,
			fmt.Sprintf(
				"repository.secretRef is %q: give the folder with that secret's files with --git-secret-dir", ref,
			),
		)
	}
	if o.stepsDir == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.stepsDir = filepath.Dir(self)
	}
	for _, p := range schemas.MustLoad("generate-workload-cr").Properties {
		given := o.plane.API.ClientAuth
		if p.Name == "oauth-client-auth" && given != "" && !slices.Contains(p.Enum, given) {
			faults = append(faults, fmt.Sprintf(
				"--oauth-client-auth: %q is not one of %s", given, strings.Join(p.Enum, ", "),
			))
		}
	}
	if o.plane.Signing.Password != "" && o.plane.Signing.Key == "" {
		faults = append(faults, "--signing-password-file: there is no --signing-key that it is for")
	}
	if o.plane.BuildKit.TLSDir != "" && o.plane.BuildKit.Address == "" {
		faults = append(faults, "--buildkit-tls-dir: there is no --buildkit-address that it is for")
	}
	var err error
	if o.plane.Builders, err = cachedir.Path("builders"); err != nil {
		return err
	}
	for _, given := range []struct {
		flag string
		path *string
	}{
		{"--source", &o.plane.Source.Folder}, {"--git-secret-dir", &o.plane.Source.GitSecret},
		{"--build-secrets-dir", &o.plane.Source.BuildSecrets}, {"--bindings-dir", &o.plane.Source.Bindings},
		{"--docker-config", &o.plane.Registry.DockerConfig}, {"--buildkit-tls-dir", &o.plane.BuildKit.TLSDir},
		{"--signing-key", &o.plane.Signing.Key}, {"--signing-password-file", &o.plane.Signing.Password},
		{"--oauth-client-secret-file", &o.plane.API.ClientSecretFile},
		{"--oauth-client-assertion-file", &o.plane.API.ClientAssertionFile}, {"--ca-bundle", &o.plane.CABundle},
		{"--templates", &o.templates.dir}, {"--steps-dir", &o.stepsDir},
		{"", &o.plane.State}, {"", &o.plane.Builders}, // made when absent
	} {
		if *given.path == "" {
			continue
		}
		abs, err := filepath.Abs(*given.path)
		if err != nil {
			return err
		}
		if _, err := os.Stat(abs); err != nil && given.flag != "" {
			faults = append(faults, fmt.Sprintf("%s: %v", given.flag, err))
		}
		*given.path = abs
	}
	if len(faults) > 0 {
		return outcome.Misuse(faults...)
	}
	return nil
}

// unsigned says of each way in which templates sign that this run does not.
var unsigned = map[string]string{
	"key":     "These templates sign images, and this run does not: give a key with --signing-key",
	"keyless": "These templates sign images by an identity, which only a cluster has: this run does not sign",
}

// checkSecrets refuses secrets for a build that the workflow does not have: nothing would read them. It asks for those
// that the run names. schemas are the names of the schemas of the workflow's steps.
func (o *runOptions) checkSecrets(run *workflowrun.Run, schemas []string) error {
	const dockerfile, buildpacks = "containerfile-build", "buildpacks-build"
	ref := run.Text("bindings", "secretRef")
	if ref != "" && o.plane.Source.Bindings == "" && slices.Contains(schemas, buildpacks) {
		return outcome.Misuse(fmt.Sprintf(
			"bindings.secretRef is %q: give the folder with that secret's files with --bindings-dir", ref,
		))
	}
	if slices.Contains(schemas, dockerfile) {
		if faults := missingSecrets(run, o.plane.Source.BuildSecrets); len(faults) > 0 {
			return outcome.Misuse(faults...)
		}
	}
	for _, given := range []struct{ flag, folder, of, not, instead string }{
		{"--build-secrets-dir", o.plane.Source.BuildSecrets, dockerfile, buildpacks,
			"buildpacks, which have no RUN: give them service bindings with --bindings-dir"},
		{"--bindings-dir", o.plane.Source.Bindings, buildpacks, dockerfile,
			"a Dockerfile, in which nothing reads bindings: give secrets for RUN with --build-secrets-dir"},
	} {
		if given.folder != "" && slices.Contains(schemas, given.not) && !slices.Contains(schemas, given.of) {
			return outcome.Misuse(given.flag + ": this workflow builds with " + given.instead)
		}
	}
	return nil
}

// missingSecrets lists the build secrets of a run that are not in a folder, which is empty where none was given.
func missingSecrets(run *workflowrun.Run, folder string) (faults []string) {
	list, _ := run.Parameters["buildSecrets"].([]any)
	var names []string
	for i, item := range list {
		secret, _ := item.(map[string]any)
		name, _ := secret["name"].(string)
		if folder == "" {
			names = append(names, name)
			continue
		}
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			faults = append(faults, fmt.Sprintf("--build-secrets-dir: buildSecrets[%d] is not there: %v", i, err))
		}
	}
	if len(names) > 0 {
		faults = append(faults, fmt.Sprintf(
			"buildSecrets has %s: give a folder with a file of each name with --build-secrets-dir",
			strings.Join(names, ", "),
		))
	}
	return faults
}

// parseMirrors takes --registry-mirror apart, and returns its faults and those of --insecure-registry. Their
// values become parameters of steps, whose schema knows their form.
func (o *runOptions) parseMirrors() (faults []string) {
	mirrors, insecure := []any{}, []any{}
	for _, given := range o.mirrors {
		host, mirror, ok := strings.Cut(given, "=")
		if !ok {
			faults = append(faults, fmt.Sprintf("--registry-mirror: %q is not of the form HOST=MIRROR", given))
			continue
		}
		parsed := registry.Mirror{Registry: host, Mirror: mirror}
		o.plane.Registry.Mirrors = append(o.plane.Registry.Mirrors, parsed)
		mirrors = append(mirrors, map[string]any{"registry": host, "mirror": mirror})
	}
	for _, host := range o.plane.Registry.Insecure {
		insecure = append(insecure, host)
	}
	flags := map[string]string{"registry-mirrors": "--registry-mirror", "insecure-registries": "--insecure-registry"}
	for _, fault := range schemas.MustLoad("containerfile-build").Validate(map[string]any{
		"registry-mirrors": mirrors, "insecure-registries": insecure,
	}) {
		if len(fault.Path) > 0 && flags[fault.Path[0]] != "" {
			faults = append(faults, flags[fault.Path[0]]+": "+fault.String())
		}
	}
	return faults
}

// checkDescriptor finds faults of the descriptor in --source, which the last step would find after the build.
func (o *runOptions) checkDescriptor(run *workflowrun.Run) error {
	if o.plane.Source.Folder == "" {
		return nil
	}
	dir := strings.TrimLeft(run.Repository(workflowrun.AppPath), "/")
	d, err := descriptor.Read(descriptor.Folder(o.plane.Source.Folder), dir)
	if err != nil {
		return nil // there is none, or the steps say why it cannot be read
	}
	return d.Err(filepath.Join(o.plane.Source.Folder, dir, descriptor.Name))
}

// workloadFile is where the last step leaves the Workload, among its results.
const workloadFile = "workload-cr.yaml"

// made is what a run made.
type made struct {
	image, workload string
	object          []byte // the Workload as YAML
	annotations     map[string]string
}

// last is an output of the last step that has it.
func last(steps []string, outputs pipeline.Outputs, output string) (value string) {
	for _, step := range steps {
		value = cmp.Or(outputs[step][output], value)
	}
	return value
}

// stored is a Workload as the API has it, or where that cannot be asked, as the last step left it in a file.
func stored(plane *localplane.Plane, run *workflowrun.Run, name, file string) ([]byte, error) {
	object, err := plane.Workload(run.Namespace, name)
	if err != nil || object == nil {
		raw, readErr := os.ReadFile(file)
		return raw, errors.Join(err, readErr)
	}
	return yaml.Marshal(object)
}

// print shows it to people.
func (m made) print(out io.Writer, run *workflowrun.Run) {
	fmt.Fprintf(
		out, "Image\n  %s\n\nWorkload %s/%s\n%s\n", cell(m.image), run.Namespace, cell(m.workload),
		quote.Text(indent(string(m.object)), 0),
	)
	if len(m.annotations) == 0 {
		return
	}
	fmt.Fprintf(out, "Annotations of WorkflowRun %s/%s\n", run.Namespace, run.Name)
	for key, value := range sorted(m.annotations) {
		fmt.Fprintf(out, "  %s: %s\n", cell(key), cell(value))
	}
}

// sorted goes through a map by its keys.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}
