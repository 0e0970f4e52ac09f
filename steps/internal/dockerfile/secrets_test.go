package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/step"
)

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Build secrets that come late are waited for where the run names them, and those that do not come end the build, each
// with the SecretReference that it was to come from.
func TestWaitForSecrets(t *testing.T) {
	t.Parallel()
	var known redact.Secrets
	wait := func(ctx context.Context, log *slog.Logger, in Parameters) (map[string][]byte, error) {
		return in.waitForSecrets(ctx, step.Environment{Log: log, Secrets: &known})
	}
	quiet := slog.New(slog.DiscardHandler)
	dir := t.TempDir()
	put := func(name, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("other", "swordfish")
	in := Parameters{BuildSecretsDir: dir, SecretsTimeout: 60}
	if got, err := wait(t.Context(), quiet, in); err != nil || string(got["other"]) != "swordfish" {
		t.Errorf("none is named: %v, %v", got, err)
	}
	in.BuildSecrets = []buildSecret{{Name: "npmrc", SecretRef: "cart-npm"}, {"pip", "cart-python", "pip.conf"}}
	var told bytes.Buffer
	late := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		if told.Len() == 0 { // it waits: now they come
			put("npmrc", "_authToken=horsebattery")
			put("pip", "")
		}
		return told.Write(p)
	}), nil))
	got, err := wait(t.Context(), late, in)
	if names := slices.Sorted(maps.Keys(got)); err != nil || !slices.Equal(names, []string{"npmrc", "other", "pip"}) ||
		!strings.Contains(told.String(), "The Secret of the build is there") {
		t.Errorf("late: %v, %v, %s", names, err, told.String())
	}
	if shown := known.String("with _authToken=horsebattery and swordfish"); strings.Contains(shown, "horse") ||
		strings.Contains(shown, "sword") {
		t.Errorf("they are shown: %s", shown)
	}
	in.BuildSecrets = append(in.BuildSecrets, buildSecret{Name: "a", SecretRef: "x"}, buildSecret{"b", "y", "k"})
	in.SecretsTimeout = 0
	const missing = "a (SecretReference x), b (key k of SecretReference y)"
	if _, err := wait(t.Context(), quiet, in); outcome.Of(err).Reason != outcome.InvalidParameters ||
		!strings.HasSuffix(outcome.Of(err).Message, "within 0 s: "+missing) ||
		!strings.Contains(outcome.Of(err).Hint, "stepwright.dev/build-secrets") {
		t.Errorf("missing: %+v", outcome.Of(err))
	}
	in.BuildSecretsDir = filepath.Join(dir, "absent")
	if _, err := wait(t.Context(), quiet, in); !strings.Contains(outcome.Of(err).Message, "npmrc (SecretReference") {
		t.Errorf("absent: %v", err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	in.SecretsTimeout = 60
	if _, err := wait(ctx, quiet, in); !errors.Is(err, stopped) {
		t.Errorf("stopped: %v", err)
	}
}
