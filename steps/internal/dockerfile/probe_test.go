package dockerfile

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// A look at the node tells what it gives the container, and starts a builder, which leaves nothing.
func TestCheckOnly(t *testing.T) {
	t.Parallel()
	look := func(change func(*Parameters)) (map[string]outcome.Probe, Parameters, error) {
		in := parameters(workspace.Workspace(openDir(t)), nil)
		in.CheckOnly = true
		change(&in)
		var printed bytes.Buffer
		_, err := Run(t.Context(), in, step.Environment{
			Log: slog.New(slog.DiscardHandler), Stdout: &printed, Stderr: io.Discard, Secrets: new(redact.Secrets),
		})
		found := map[string]outcome.Probe{}
		for line := range strings.Lines(printed.String()) {
			var p outcome.Probe
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			found[p.Check] = p
		}
		return found, in, err
	}
	found, in, err := look(func(*Parameters) {})
	if err != nil || found["builder"].Reason != outcome.Succeeded ||
		!strings.Contains(found["builder"].Message, "starts") {
		t.Errorf("%v %+v", err, found)
	}
	for _, fact := range []string{"Linux ", "user namespaces", "seccomp ", "cgroup "} {
		if !strings.Contains(found["node"].Message, fact) {
			t.Errorf("%q is missing: %s", fact, found["node"].Message)
		}
	}
	if left := leftovers(t, in.Workspace); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	found, _, err = look(func(in *Parameters) {
		in.BuildKitAddress = "unix://" + filepath.Join(t.TempDir(), "none")
	})
	if outcome.Of(err) == nil || found["builder"].Reason != outcome.BuilderUnavailable || found["builder"].Hint == "" ||
		found["node"].Reason != outcome.Succeeded {
		t.Errorf("%v %+v", err, found)
	}
}
