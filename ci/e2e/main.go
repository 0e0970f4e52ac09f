// Command e2e runs the end-to-end tests: the templates, as kubectl applies them, with the images that make images
// makes, on a Kubernetes with Argo and OpenChoreo. It starts the cluster of ci/cluster and ends it again, whatever
// happens.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
	"github.com/stepwright/stepwright/templates"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flag.Usage = func() {
		fmt.Fprint(os.Stderr, `e2e runs the end-to-end tests on a cluster of their own, from the module's root:

  go run ./ci/e2e                                          all of them
  go run ./ci/e2e -keep -run TestTemplates/failures        some, and leave the cluster running to look at
  CLUSTER=kind go run ./ci/e2e                             on a cluster of kind; see ci/cluster/README.md

`)
		flag.PrintDefaults()
	}
	r := runner{stdout: os.Stdout, stderr: os.Stderr}
	flag.StringVar(&r.run, "run", "", "regular expression of the tests to run, as of go test (default all)")
	flag.BoolVar(&r.exhaustive, "exhaustive", false, "run the cases, too, that take minutes each, as at night")
	flag.BoolVar(&r.again, "again", false, "run tests that fail once more, and name those that pass then as flaky")
	flag.DurationVar(&r.soak, "soak", 0, "build for so long, and look at what grows, instead of the tests")
	flag.StringVar(&r.soakFiles, "soak-report", filepath.Dir(table), "where -soak leaves what it found")
	flag.BoolVar(&r.keep, "keep", false, "leave the cluster running; make cluster-down ends it")
	flag.Parse()
	if r.soak > 0 && r.run == "" {
		r.run = "^TestSoak$"
	}
	if err := r.all(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
}

type runner struct {
	run            string
	exhaustive     bool
	again          bool
	soak           time.Duration
	soakFiles      string
	keep           bool
	stdout, stderr io.Writer
}

// The programs that it builds, and where the tests leave their tables.
const (
	clusterBin = "bin/cluster"
	cliBin     = "bin/stepwright"
	testBin    = "bin/e2e.test"
	pipesBin   = "bin/externalci.test"
	pipesSteps = "dist/e2e-bin" // what pipelines of external CI fetch
	collectBin = "bin/collector"
	releaseBin = "bin/release"
	helmBin    = "bin/helm"
	releaseDir = "dist/e2e-release" // what TestRelease publishes
	bundleDir  = "dist/e2e-bundle"
	overlay    = "ci/e2e/overlays/default"
	table      = "dist/e2e.txt"
	again      = "dist/e2e-again.txt" // the table of what ran once more
	logsDir    = "dist/e2e-logs"      // only after a failure
	version    = "e2e"                // of the images, as the overlays name it
)

func (r runner) all(ctx context.Context) (err error) {
	if err := errors.Join(os.MkdirAll(filepath.Dir(table), 0o755), os.RemoveAll(logsDir)); err != nil {
		return err
	}
	if err := r.step(ctx, "Building the tests", func(ctx context.Context) error {
		return errors.Join(
			r.command(ctx, "go", "build", "-o", clusterBin, "./ci/cluster"),
			r.command(ctx, "go", "build", "-o", cliBin, "./cmd/stepwright"),
			r.command(ctx, "go", "build", "-o", "bin/", "./steps/..."), // which it runs
			// What the images of components run.
			r.command(
				ctx, "go", "build", "-o", "bin/", "./ci/e2e/registry", "./ci/e2e/scanner",
				"./ci/cluster/pause",
				"github.com/moby/buildkit/cmd/buildkitd", "github.com/moby/buildkit/cmd/buildctl",
			),
			r.command(ctx, "go", "build", "-o", releaseBin, "./ci/release"),
			// As ci/cluster builds it for kind, so that the compiler works once.
			r.command(
				ctx, "go", "build", "-trimpath", "-modfile", "ci/release/helm/go.mod", "-o", helmBin,
				"helm.sh/helm/v3/cmd/helm",
			),
			r.command(ctx, "go", "test", "-c", "-tags", "e2e", "-o", testBin, "./ci/e2e"),
			r.command(ctx, "go", "test", "-c", "-o", pipesBin, "./ci/externalci"),
			r.command(ctx, "make", "--silent", "binaries", "BINARIES="+pipesSteps, "ARCHITECTURES="+
				runtime.GOARCH, "STEPS=containerfile-build publish-image generate-workload-cr", "ANYWHERE=",
				"SYSTEMS="),
			r.command(ctx, "go", "build", "-C", "ci/collector", "-o", "../../"+collectBin, "."),
			r.prepareExternalCI(ctx))
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "Making base images and builders", func(ctx context.Context) error {
		dir, err := baseimages.DefaultDir()
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(r.stderr, nil))
		return errors.Join(
			baseimages.Store{Dir: dir, Log: log}.Ensure(ctx, append(baseimages.Names(), baseimages.Rootless)...),
			testbuilders.Store{Dir: dir, Log: log}.Ensure(ctx))
	}); err != nil {
		return err
	}
	if err := r.step(ctx, "Making the steps' images", func(ctx context.Context) error {
		return r.command(ctx, "go", "run", "./images", "build", "--version", version, "--arch", runtime.GOARCH)
	}); err != nil {
		return err
	}
	if r.runs("TestRelease") {
		if err := r.step(ctx, "Making a release", func(ctx context.Context) error {
			return r.command(
				ctx, releaseBin, "build", "--version", templates.Version(), "--out", releaseDir, "--arch",
				runtime.GOARCH, "--os", "linux",
			)
		}); err != nil {
			return err
		}
	}
	var earlier string
	if r.runs("TestUpgrade") {
		if err := r.step(ctx, "Making the images and the bundle of "+before[:8], func(ctx context.Context) (err error) {
			if earlier, err = r.makeBefore(ctx); err != nil || earlier == "" {
				return err
			}
			return r.command(ctx, releaseBin, "bundle", "--out", bundleDir, overlay)
		}); err != nil {
			return err
		}
	}
	defer func() {
		// Also after an interrupt.
		ctx := context.WithoutCancel(ctx)
		if err != nil {
			err = errors.Join(err, r.step(ctx, "Keeping logs in "+logsDir, r.keepLogs))
		}
		if !r.keep {
			err = errors.Join(err, r.step(ctx, "Ending the cluster", func(ctx context.Context) error {
				return r.command(ctx, clusterBin, "down")
			}))
		}
	}()
	if err := r.step(ctx, "Starting the cluster", func(ctx context.Context) error {
		// A new one: a node keeps the images it has, and OpenChoreo the runs.
		for _, verb := range []string{"down", "up", "load-images"} {
			if err := r.command(ctx, clusterBin, verb); err != nil {
				return err
			}
		}
		if earlier == "" {
			return nil
		}
		return r.command(ctx, clusterBin, "load-images", "--dir", filepath.Join(earlier, imagesBefore))
	}); err != nil {
		return err
	}
	return r.step(ctx, "Testing", func(ctx context.Context) error { return r.test(ctx, earlier) })
}

// test runs the tests, and those that fail once more if that is wanted. earlier is the folder that TestUpgrade begins
// with; empty: there is none.
func (r runner) test(ctx context.Context, earlier string) error {
	args := []string{"exec", testBin, "-test.v", "-test.timeout", (time.Hour + r.soak).String(), "-test.parallel", "4",
		"-stepwright", cliBin, "-repository", ".", "-pipelines", pipesBin, "-pipelines-steps", pipesSteps,
		"-collector", collectBin}
	if earlier != "" {
		args = append(args, "-bundle", bundleDir, "-before", filepath.Join(earlier, bundleBefore))
	}
	if r.exhaustive {
		args = append(args, "-exhaustive")
	}
	if r.soak > 0 {
		args = append(args, "-soak", r.soak.String(), "-soak-report", r.soakFiles)
	}
	var failed failures
	first := append(slices.Clone(args), "-report", table)
	if r.run != "" {
		first = append(first, "-test.run", r.run)
	}
	err := r.commandTo(ctx, io.MultiWriter(r.stdout, &failed), clusterBin, first...)
	if err == nil || !r.again || ctx.Err() != nil || len(failed.tests) == 0 {
		return err
	}
	fmt.Fprintf(r.stdout, "e2e: Once more, as -again says: %s\n", strings.Join(failed.tests, ", "))
	second := append(args, "-report", again, "-test.run", failed.expression(r.run))
	if r.command(ctx, clusterBin, second...) != nil {
		return err
	}
	fmt.Fprintf(r.stdout, "e2e: FLAKY, failed first and passed then: %s\n", strings.Join(failed.tests, ", "))
	return nil
}

// runs tells whether a test is among those to run. An expression whose meaning is not plain takes in all.
func (r runner) runs(test string) bool {
	depth, escaped := 0, false
	// The expression is of alternatives, and each of parts: the first part is of tests, the others of their subtests.
	alternatives := strings.FieldsFunc(r.run, func(c rune) bool {
		switch {
		case escaped || c == '\\':
			escaped = !escaped
			return false
		case c == '(' || c == '[':
			depth++
		case c == ')' || c == ']':
			depth--
		}
		return c == '|' && depth == 0
	})
	for _, alternative := range alternatives {
		first, _, _ := strings.Cut(alternative, "/")
		expression, err := regexp.Compile(first)
		if err != nil || expression.MatchString(test) {
			return true
		}
	}
	return len(alternatives) == 0
}

// prepareExternalCI fetches and builds what the tests of external CI would, were there a network inside the cluster:
// act, and Groovy's parser.
func (r runner) prepareExternalCI(ctx context.Context) error {
	// go keeps it for the next time
	errs := []error{r.command(ctx, "go", "build", "-C", "ci/externalci/act", "-o", os.DevNull, "github.com/nektos/act")}
	if _, err := os.Stat("ci/externalci/groovy/node_modules"); errors.Is(err, fs.ErrNotExist) {
		errs = append(
			errs,
			r.command(
				ctx, "npm", "ci", "--prefix", "ci/externalci/groovy", "--ignore-scripts", "--no-audit", "--no-fund",
			),
		)
	}
	return errors.Join(errs...)
}

// step prints the name of a piece of work, and how long it took.
func (r runner) step(ctx context.Context, what string, do func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	began := time.Now()
	fmt.Fprintf(r.stdout, "e2e: %s\n", what)
	err := do(ctx)
	fmt.Fprintf(r.stdout, "e2e: %s took %s\n", what, time.Since(began).Round(100*time.Millisecond))
	return err
}

func (r runner) command(ctx context.Context, name string, args ...string) error {
	return r.commandTo(ctx, r.stdout, name, args...)
}

// commandTo runs a command whose output goes elsewhere.
func (r runner) commandTo(ctx context.Context, stdout io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // some of the programs run in images without a libc
	cmd.Stdout, cmd.Stderr = stdout, r.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}
