package templates_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
)

// installation is what Argo's validators of other versions read, testdata/argo.
type installation struct {
	Name                 string
	Templates, Workflows []map[string]any
}

// installationOf renders a run of each ClusterWorkflow. The program stepwright and the other tests use Argo 4.0 itself.
func installationOf(t *testing.T, name string, objects []map[string]any) installation {
	t.Helper()
	i := installation{Name: name, Templates: ofKind(objects, "ClusterWorkflowTemplate")}
	for _, clusterWorkflow := range ofKind(objects, "ClusterWorkflow") {
		workflow, _, err := renderRun(clusterWorkflow, ordinary())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		i.Workflows = append(i.Workflows, workflow)
	}
	return i
}

// Earlier minor versions of Argo find no fault with the templates, with whatever components, and with the Workflows
// that refer to them.
func TestEarlierArgos(t *testing.T) {
	if testing.Short() {
		t.Skip("builds Argo's validators")
	}
	t.Parallel()
	good := []installation{
		installationOf(t, "planes", slices.Concat(build(t, "workflow-plane"), build(t, "control-plane"))),
	}
	for _, overlay := range overlays(t) {
		good = append(good, installationOf(t, overlay.name, build(t, overlay.dir)))
	}
	unknown := installationOf(t, "a field of a later Argo", build(t, "overlays/example"))
	set(t, unknown.Templates[0], true, "spec", "templates", 0, "ofTomorrow")
	absent := installationOf(t, "an absent template", build(t, "overlays/example"))
	absent.Templates = absent.Templates[1:]
	for version, flags := range map[string][]string{
		"3.6": {"-modfile=3.6.mod", "-tags=argo36"},
		"3.7": nil,
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			program := validator(t, version, flags...)
			for _, fault := range faultsOf(t, program, good...) {
				t.Error(fault)
			}
			for i, want := range map[*installation]string{
				&unknown: `unknown field "ofTomorrow"`, &absent: "there is no ClusterWorkflowTemplate",
			} {
				if found := strings.Join(faultsOf(t, program, *i), "\n"); !strings.Contains(found, want) {
					t.Errorf("%s: got %q, want %q", i.Name, found, want)
				}
			}
		})
	}
}

// validator builds a validator and returns its file, which the go command leaves as it is until a source changes.
func validator(t *testing.T, version string, flags ...string) string {
	t.Helper()
	dir, err := cachedir.Path("argo-validators")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "argo-"+version)
	unlock, err := filelock.Exclusive(t.Context(), file+".lock")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	args := slices.Concat(
		[]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file}, flags, []string{"."},
	)
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join("testdata", "argo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return file
}

// faultsOf are the lines that a validator prints.
func faultsOf(t *testing.T, program string, installations ...installation) []string {
	t.Helper()
	raw, err := json.Marshal(installations)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("%v\n%s", exit, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(out)))
}
