package externalci_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOwnWorkflows has act read what GitHub runs of this project, by GitHub's schema, and plan the jobs of each event.
// Nothing runs: act's own dry run needs a container daemon, or else runs the commands.
func TestOwnWorkflows(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	workflows := filepath.Join(root, ".github/workflows")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "act/actrc"), "")
	program := actBinary(t)
	act := func(args ...string) string {
		t.Helper()
		environ := append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir)
		log, code := command(t, root, environ, program, args...)
		if code != 0 {
			t.Fatalf("act %s: exit code %d\n%s", strings.Join(args, " "), code, log)
		}
		return log
	}
	act("--validate", "--strict", "--workflows", workflows)
	for _, test := range []struct {
		workflow, event string
		jobs            []string // with their stages: those of one may run at the same time
	}{
		{"ci.yml", "push", []string{"0 lint", "0 test", "0 test-short"}},
		{"ci.yml", "pull_request", []string{"0 lint", "0 test", "0 test-short"}},
		{"codeql.yml", "schedule", []string{"0 analyze"}},
		{"e2e.yml", "schedule", []string{"0 e2e", "0 faults"}},
		{"e2e.yml", "pull_request", []string{"0 e2e", "0 faults"}},
		{"release.yml", "push", []string{"0 e2e", "0 make", "0 test", "1 publish"}},
		{"release.yml", "workflow_dispatch", []string{"0 e2e", "0 make", "0 test", "1 publish"}},
	} {
		list := act(test.event, "--list", "--workflows", filepath.Join(workflows, test.workflow))
		var jobs []string
		for line := range strings.Lines(list) {
			if fields := strings.Fields(line); len(fields) > 4 && slices.Contains(fields, test.workflow) {
				jobs = append(jobs, fields[0]+" "+fields[1])
			}
		}
		slices.Sort(jobs)
		if !slices.Equal(jobs, test.jobs) {
			t.Errorf("%s after %s has the jobs %q, want %q\n%s", test.workflow, test.event, jobs, test.jobs, list)
		}
	}
}
