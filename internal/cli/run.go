package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/console"
	"github.com/stepwright/stepwright/internal/localplane/history"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
)

// runOptions are the flags of stepwright run.
type runOptions struct {
	name     string
	source   string
	state    string
	stepsDir string

	registry     string
	plainHTTP    bool
	dockerConfig string
	baseImages   string
	builderImage string
	runImage     string

	apiServerURL     string
	tokenURL         string
	clientID         string
	clientSecretFile string
	scope            string

	caBundle        string
	gitSecretDir    string
	buildSecretsDir string

	templates string
	output    string

	cluster     bool
	kubeconfig  string
	context     string
	secretStore string

	keep        bool
	keepServing bool
}

func runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] FILE|FOLDER...",
		Short: "Run a WorkflowRun on this machine: check out, build, publish, make the Workload",
		Long: `Run a WorkflowRun on this machine: check out, build, publish, make the Workload.

The files hold the WorkflowRun and, if there is one, its Component; of a folder, every YAML file is
read. All of it is checked before anything starts, and every fault is listed.

What runs are the templates that a WorkflowPlane has installed: the WorkflowRun is rendered as
OpenChoreo does, and each container's command, variables, volumes and outputs become those of a
process. Settings of the platform have the values of this machine.

A buildpack builder's container is entered by runc: its image unpacked, as the user that the
template names, without capabilities, its root file system read-only. An ordinary user needs
newuidmap and a range in /etc/subuid for that. Builders and run images are those that the templates
name by digest. With --base-images made, or auto where the registries do not answer, they are small
ones for tests, made on this machine from Stepwright's source.

What a WorkflowPlane would have runs inside this process where no address is given: a registry, an
OAuth token endpoint, and an OpenChoreo API that keeps its objects as files. They live below --state
and their addresses are on loopback.

With --cluster and --kubeconfig nothing runs here. In a cluster that has OpenChoreo the WorkflowRun
is created; in one that has only Argo, the objects that OpenChoreo would make of it, except for the
namespace, which must be there already. The logs are shown until the run ends; an interrupt ends
only the showing.`,
		Example: `  stepwright run examples/greeting-service --source examples/greeting-service
  stepwright run component.yaml workflowrun.yaml --git-secret-dir ~/.secrets/git
  stepwright run app/ --registry registry.example.com --docker-config ~/.docker/config.json \
      --api-server-url https://api.example.com --oauth-token-url https://idp.example.com/oauth2/token \
      --oauth-client-id publisher --oauth-client-secret-file ./client-secret
  stepwright run app/ --cluster --kubeconfig ~/.kube/config`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.cluster {
				if err := onlyForCluster(cmd.Flags()); err != nil {
					return err
				}
				return o.submit(cmd.Context(), cmd.OutOrStdout(), args)
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "WorkflowRun to run, where the files hold several")
	f.StringVar(
		&o.source, "source", "",
		"folder to use as the repository instead of repository.url: its files become one commit, served by a real "+
			"Git server",
	)
	f.StringVar(
		&o.state, "state", defaultState(),
		"folder of what is kept between runs: images, the API's objects, the build cache",
	)
	f.StringVar(&o.stepsDir, "steps-dir", "", "folder of the steps' binaries (default: that of this program)")
	f.StringVar(&o.registry, "registry", "", "registry to push to (default: one inside this process)")
	f.BoolVar(
		&o.plainHTTP, "insecure-plain-http", false,
		"speak plain HTTP to the registries of --registry, --builder-image and --run-image, to --api-server-url and "+
			"--oauth-token-url",
	)
	f.StringVar(
		&o.dockerConfig, "docker-config", "", "docker configuration file with the credentials to pull and push with",
	)
	f.StringVar(
		&o.baseImages, "base-images", realImages,
		"real from their registries, made on this machine from Debian packages, or auto: real where those registries "+
			"answer",
	)
	f.StringVar(&o.builderImage, "builder-image", "", "image of buildpacks to build with instead of the template's own")
	f.StringVar(
		&o.runImage, "run-image", "", "image that what buildpacks build starts with, instead of the template's own",
	)
	f.StringVar(&o.apiServerURL, "api-server-url", "", "OpenChoreo API (default: one inside this process)")
	f.StringVar(&o.tokenURL, "oauth-token-url", "", "token endpoint for --api-server-url")
	f.StringVar(&o.clientID, "oauth-client-id", "", "client for --api-server-url")
	f.StringVar(&o.clientSecretFile, "oauth-client-secret-file", "", "file with the client's secret")
	f.StringVar(&o.scope, "oauth-scope", "", "scopes to ask for")
	f.StringVar(&o.caBundle, "ca-bundle", "", "PEM file of certificate authorities to trust besides the system's")
	f.StringVar(
		&o.gitSecretDir, "git-secret-dir", "",
		"folder with the repository's credentials: ssh-privatekey, or username and password",
	)
	f.StringVar(&o.buildSecretsDir, "build-secrets-dir", "", "folder of files that RUN --mount=type=secret may read")
	f.StringVar(
		&o.templates, "templates", "",
		"folder with the templates to run: a kustomization of both planes, or the folders workflow-plane and "+
			"control-plane (default: those this program was built with)",
	)
	f.StringVarP(
		&o.output, "output", "o", "", "print the WorkflowRun with its status instead of what it made: yaml or json",
	)
	f.BoolVar(&o.keep, "keep", false, "keep the workspace")
	f.BoolVar(&o.keepServing, "keep-serving", false, "keep registry and API up until interrupted")
	f.BoolVar(&o.cluster, "cluster", false, "run it in the cluster of --kubeconfig instead of on this machine")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file of the cluster")
	f.StringVar(&o.context, "context", "", "context of --kubeconfig (default: its current one)")
	f.StringVar(
		&o.secretStore, "secret-store", "default",
		"ClusterSecretStore of the workflow plane, for a cluster without OpenChoreo, where no file holds the plane",
	)
	cmd.MarkFlagsRequiredTogether("cluster", "kubeconfig")
	cmd.MarkFlagsRequiredTogether("api-server-url", "oauth-token-url", "oauth-client-id", "oauth-client-secret-file")
	return cmd
}

// defaultState is the user's cache folder: all of it can be made again.
func defaultState() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "stepwright")
}

func (o *runOptions) run(ctx context.Context, out io.Writer, files []string) (err error) {
	run, err := workflowrun.Load(o.name, files...)
	if err != nil {
		return err
	}
	if err := o.check(run); err != nil {
		return err
	}
	// Without a plane first: what is wrong with run or templates must not be found only after base images were made.
	planned, _, err := o.plan(ctx, run, &plane{}, os.TempDir())
	if err != nil {
		return err
	}
	builder, err := o.builder(planned)
	if err != nil {
		return err
	}
	plane, err := o.startPlane(ctx, run, builder)
	if err != nil {
		return err
	}
	defer plane.Close()
	scratch, err := os.MkdirTemp("", "stepwright-"+run.Name+"-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintf(os.Stderr, "The workspace is %s\n", filepath.Join(scratch, "workspace"))
	} else {
		defer os.RemoveAll(scratch)
	}
	workflow, steps, err := o.plan(ctx, run, plane, scratch)
	if err != nil {
		return err
	}
	record, err := o.history().Create(run.WorkflowRun, workflow)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	view := console.New(os.Stderr, names)
	outputs, failure := pipeline.Run(ctx, steps, pipeline.Observers{view, record})
	view.Close()
	annotations, err := plane.annotations(run)
	if err != nil && !errors.Is(err, errNotOurs) {
		failure = errors.Join(failure, err)
	}
	ended, err := record.End(failure, annotations)
	if err != nil {
		return errors.Join(failure, err)
	}
	if o.output != "" {
		if err := printObject(out, o.output, ended); err != nil {
			return errors.Join(failure, err)
		}
	}
	if failure != nil {
		return failure
	}
	if o.output == "" {
		if err := report(
			out, run, names, outputs, annotations, filepath.Join(scratch, "workspace", workloadFile),
		); err != nil {
			return err
		}
	}
	if o.keepServing {
		plane.describe(out)
		<-ctx.Done()
	}
	return nil
}

func (o *runOptions) history() history.Store {
	return history.Store{Dir: filepath.Join(o.state, "runs")}
}

// check refuses what would fail only after minutes.
func (o *runOptions) check(run *workflowrun.Run) error {
	var faults []string
	if !slices.Contains([]string{realImages, madeImages, autoImages}, o.baseImages) {
		faults = append(
			faults,
			fmt.Sprintf("--base-images: %q is none of %s, %s, %s", o.baseImages, realImages, madeImages, autoImages),
		)
	}
	if !slices.Contains([]string{"", "yaml", "json"}, o.output) {
		faults = append(faults, fmt.Sprintf("--output: %q is neither yaml nor json", o.output))
	}
	if ref := run.Text("repository", "secretRef"); ref != "" && o.gitSecretDir == "" && o.source == "" {
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
	for flag, path := range map[string]*string{
		"--source": &o.source, "--docker-config": &o.dockerConfig, "--oauth-client-secret-file": &o.clientSecretFile,
		"--ca-bundle": &o.caBundle, "--templates": &o.templates, "--steps-dir": &o.stepsDir,
		"--git-secret-dir": &o.gitSecretDir, "--build-secrets-dir": &o.buildSecretsDir,
	} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path) // a step runs in another folder
		if err != nil {
			return err
		}
		if _, err := os.Stat(abs); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %v", flag, err))
		}
		*path = abs
	}
	if len(faults) > 0 {
		return &workflowrun.InvalidError{Faults: faults}
	}
	return nil
}

// workloadFile is where the last step leaves the Workload, in the workspace.
const workloadFile = "workload-cr.yaml"

// report prints what the run made.
func report(
	out io.Writer, run *workflowrun.Run, steps []string, outputs pipeline.Outputs,
	annotations map[string]string, workload string,
) error {
	find := func(output string) (value string) {
		for _, step := range steps {
			value = cmp.Or(outputs[step][output], value)
		}
		return value
	}
	manifest, err := os.ReadFile(workload)
	if err != nil {
		return err
	}
	fmt.Fprintf(
		out, "Image\n  %s\n\nWorkload %s/%s\n%s\n", find("image"), run.Namespace, find("workload"),
		indent(string(manifest)),
	)
	if len(annotations) == 0 {
		return nil
	}
	fmt.Fprintf(out, "Annotations of WorkflowRun %s/%s\n", run.Namespace, run.Name)
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		fmt.Fprintf(out, "  %s: %s\n", key, annotations[key])
	}
	return nil
}

func indent(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  ") + "\n"
}
