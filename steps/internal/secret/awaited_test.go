package secret

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// mount makes a folder look as the kubelet mounts a Secret, all of whose files appear by one link.
func mount(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	real := filepath.Join(dir, "..2026_01_01")
	if err := os.MkdirAll(real, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(real, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(real, filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

func TestAwaited(t *testing.T) {
	dir := t.TempDir()
	folder := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	quiet := slog.New(slog.DiscardHandler)
	pull := filepath.Join(folder("registry-pull-secret"), ".dockerconfigjson")
	push := filepath.Join(folder("registry-push-secret"), ".dockerconfigjson")
	key := filepath.Join(dir, "signing-key", "cosign.key") // not even the folder is there
	a := Awaited{SecretKeys: []Store{{"registry-pull-secret", "pull-acme"}, {"registry-push-secret", "push-acme"}}}

	err := a.Await(t.Context(), quiet, outcome.AuthenticationFailed, pull, push, key, "")
	failure := outcome.Of(err)
	if failure == nil || failure.Reason != outcome.AuthenticationFailed || failure.Message !=
		"Secret registry-pull-secret (key pull-acme of the secret store) and Secret registry-push-secret (key "+
			"push-acme of the secret store) and Secret signing-key: not there within 0 s: "+pull+", "+push+", "+key ||
		!strings.Contains(failure.Hint, "ExternalSecret") || !strings.Contains(failure.Hint, "stepwright doctor") {
		t.Errorf("absent: %+v", failure)
	}

	a.SecretTimeout = 60
	var told bytes.Buffer
	late := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		if told.Len() == 0 { // it waits: now one comes
			mount(t, filepath.Dir(pull), map[string]string{".dockerconfigjson": "{}"})
		}
		return told.Write(p)
	}), nil))
	if err := a.Await(t.Context(), late, outcome.AuthenticationFailed, pull); err != nil ||
		!strings.Contains(told.String(), "Waiting for the Secret registry-pull-secret (key pull-acme of the secret ") ||
		!strings.Contains(told.String(), "is there") || !strings.Contains(told.String(), "limit=1m0s") {
		t.Errorf("late: %v, %s", err, told.String())
	}
	told.Reset()
	if err := a.Await(t.Context(), late, outcome.AuthenticationFailed, pull, ""); err != nil || told.Len() > 0 {
		t.Errorf("there from the beginning: %v, %s", err, told.String())
	}
	if err := a.Await(t.Context(), quiet, outcome.AuthenticationFailed); err != nil {
		t.Errorf("none: %v", err)
	}

	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if err := a.Await(ctx, quiet, outcome.SigningFailed, push); !errors.Is(err, stopped) {
		t.Errorf("stopped: %v", err)
	}
}

// writer is a function as an io.Writer.
type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
