package main

import (
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

	"github.com/stepwright/stepwright/ci/console"
	"github.com/stepwright/stepwright/ci/pipeline"
	"github.com/stepwright/stepwright/ci/workflowrun"
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

	apiServerURL     string
	tokenURL         string
	clientID         string
	clientSecretFile string
	scope            string

	caBundle        string
	gitSecretDir    string
	buildSecretsDir string

	keep        bool
	keepServing bool
}

func runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] FILE|FOLDER...",
		Short: "Run a WorkflowRun on this machine: check out, build, publish, make the Workload",
		Long: `Run a WorkflowRun on this machine: check out, build, publish, make the Workload.

The files hold the WorkflowRun and, if there is one, its Component; of a folder, every YAML file is read. All of it is checked before
anything starts, and every fault is listed.

What a WorkflowPlane would have runs inside this process where no address is given: a registry, an OAuth token endpoint, and an
OpenChoreo API that keeps its objects as files. They live below --state and their addresses are on loopback.`,
		Example: `  stepwright run examples/greeting-service --source examples/greeting-service
  stepwright run component.yaml workflowrun.yaml --git-secret-dir ~/.secrets/git
  stepwright run app/ --registry registry.example.com --docker-config ~/.docker/config.json \
      --api-server-url https://api.example.com --oauth-token-url https://idp.example.com/oauth2/token \
      --oauth-client-id publisher --oauth-client-secret-file ./client-secret`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.name, "name", "", "WorkflowRun to run, where the files hold several")
	f.StringVar(&o.source, "source", "", "folder to use as the repository instead of repository.url: its files become one commit, served by a real Git server")
	f.StringVar(&o.state, "state", defaultState(), "folder of what is kept between runs: images, the API's objects, the build cache")
	f.StringVar(&o.stepsDir, "steps-dir", "", "folder of the steps' binaries (default: that of this program)")
	f.StringVar(&o.registry, "registry", "", "registry to push to (default: one inside this process)")
	f.BoolVar(&o.plainHTTP, "insecure-plain-http", false, "speak plain HTTP to --registry, --api-server-url and --oauth-token-url")
	f.StringVar(&o.dockerConfig, "docker-config", "", "docker configuration file with the credentials to pull and push with")
	f.StringVar(&o.baseImages, "base-images", realImages, "real from their registries, made on this machine from Debian packages, or auto: real where those registries answer")
	f.StringVar(&o.apiServerURL, "api-server-url", "", "OpenChoreo API (default: one inside this process)")
	f.StringVar(&o.tokenURL, "oauth-token-url", "", "token endpoint for --api-server-url")
	f.StringVar(&o.clientID, "oauth-client-id", "", "client for --api-server-url")
	f.StringVar(&o.clientSecretFile, "oauth-client-secret-file", "", "file with the client's secret")
	f.StringVar(&o.scope, "oauth-scope", "", "scopes to ask for")
	f.StringVar(&o.caBundle, "ca-bundle", "", "PEM file of certificate authorities to trust besides the system's")
	f.StringVar(&o.gitSecretDir, "git-secret-dir", "", "folder with the repository's credentials: ssh-privatekey, or username and password")
	f.StringVar(&o.buildSecretsDir, "build-secrets-dir", "", "folder of files that RUN --mount=type=secret may read")
	f.BoolVar(&o.keep, "keep", false, "keep the workspace")
	f.BoolVar(&o.keepServing, "keep-serving", false, "keep registry and API up until interrupted")
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

func (o *runOptions) run(ctx context.Context, out io.Writer, files []string) error {
	run, err := workflowrun.Load(o.name, files...)
	if err != nil {
		return err
	}
	if err := o.check(run); err != nil {
		return err
	}
	plane, err := o.startPlane(ctx, run)
	if err != nil {
		return err
	}
	defer plane.Close()
	workspace, err := os.MkdirTemp("", "stepwright-"+run.Name+"-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintf(os.Stderr, "The workspace is %s\n", workspace)
	} else {
		defer os.RemoveAll(workspace)
	}

	steps := o.steps(run, plane, workspace)
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	view := console.New(os.Stderr, names)
	results, err := pipeline.Run(ctx, filepath.Join(workspace, "results"), steps, view)
	view.Close()
	if err != nil {
		return err
	}
	if err := report(out, run, plane, results, filepath.Join(workspace, workloadFile)); err != nil {
		return err
	}
	if o.keepServing {
		plane.describe(out)
		<-ctx.Done()
	}
	return nil
}

// check refuses what would fail only after minutes.
func (o *runOptions) check(run *workflowrun.Run) error {
	var faults []string
	if !slices.Contains([]string{realImages, madeImages, autoImages}, o.baseImages) {
		faults = append(faults, fmt.Sprintf("--base-images: %q is none of %s, %s, %s", o.baseImages, realImages, madeImages, autoImages))
	}
	if ref := run.Text("repository", "secretRef"); ref != "" && o.gitSecretDir == "" && o.source == "" {
		faults = append(faults, fmt.Sprintf("repository.secretRef is %q: give the folder with that secret's files with --git-secret-dir", ref))
	}
	if o.stepsDir == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		o.stepsDir = filepath.Dir(self)
	}
	for _, name := range []string{"checkout-source", "containerfile-build", "publish-image", "generate-workload-cr"} {
		if _, err := os.Stat(filepath.Join(o.stepsDir, name)); err != nil {
			faults = append(faults, fmt.Sprintf("the step %s is not in %s: run make build, or say where it is with --steps-dir", name, o.stepsDir))
		}
	}
	for flag, path := range map[string]*string{
		"--source": &o.source, "--docker-config": &o.dockerConfig, "--oauth-client-secret-file": &o.clientSecretFile,
		"--ca-bundle": &o.caBundle, "--git-secret-dir": &o.gitSecretDir, "--build-secrets-dir": &o.buildSecretsDir,
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

// report prints what the run made.
func report(out io.Writer, run *workflowrun.Run, plane *plane, results pipeline.Results, workload string) error {
	manifest, err := os.ReadFile(workload)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Image\n  %s\n\nWorkload %s/%s\n%s\n", results["image"], run.Namespace, results["workload"], indent(string(manifest)))
	annotations, err := plane.annotations(run)
	if errors.Is(err, errNotOurs) {
		return nil
	}
	if err != nil {
		return err
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
