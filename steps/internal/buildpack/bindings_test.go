package buildpack

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// files writes files into a folder that every user may enter.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for to := dir; to != os.TempDir(); to = filepath.Dir(to) {
		if err := os.Chmod(to, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadBindings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		files map[string]string
		want  map[string]map[string]string
		fault string
	}{
		{"none", nil, map[string]map[string]string{}, ""},
		{"folders", map[string]string{
			"npm/type": "npmrc\n", "npm/.npmrc": "x", "maven/type": "maven", "maven/settings.xml": "y",
		},
			map[string]map[string]string{
				"npm": {"type": "npmrc\n", ".npmrc": "x"}, "maven": {"type": "maven", "settings.xml": "y"},
			}, ""},
		{"a Secret that is one",
			map[string]string{"type": "git-credentials", "credentials": "username=a", ".npmrc": "x"},
			map[string]map[string]string{
				"binding": {"type": "git-credentials", "credentials": "username=a", ".npmrc": "x"},
			}, ""},
		{"a Secret with several", map[string]string{
			"npm.type": "npmrc", "npm..npmrc": "x", "maven.type": "maven", "maven.settings.xml": "y",
		}, map[string]map[string]string{
			"npm": {"type": "npmrc", ".npmrc": "x"}, "maven": {"type": "maven", "settings.xml": "y"},
		}, ""},
		{"both", map[string]string{"npm.type": "npmrc", "ca/type": "ca-certificates", "ca/a.crt": "c", ".hidden": "x"},
			map[string]map[string]string{
				"npm": {"type": "npmrc"}, "ca": {"type": "ca-certificates", "a.crt": "c"},
			}, ""},
		{"no type", map[string]string{"npm/.npmrc": "x"}, nil, `binding "npm" has no file "type"`},
		{"an empty type", map[string]string{"npm.type": "\n"}, nil, `binding "npm" has no file "type"`},
		{"a key of no binding", map[string]string{"password": "x"}, nil,
			`the key "password" is not named BINDING.FILE`},
		{"the same twice", map[string]string{"npm.type": "npmrc", "npm/type": "npmrc"}, nil,
			`binding "npm" is there as a folder and as keys`},
		{"the step's own", map[string]string{"stepwright-ca/type": "ca-certificates"}, nil, `is the step's own`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bindings, err := readBindings(files(t, test.files))
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("got %v, want %q", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]map[string]string{}
			for name, values := range bindings {
				got[name] = map[string]string{}
				for file, value := range values {
					got[name][file] = string(value)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// Bindings that come late are waited for, where they are required, and those that do not come end the build.
func TestWaitForBindings(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context, log *slog.Logger, in Parameters) (map[string]binding, error) {
		return in.waitForBindings(ctx, step.Environment{Log: log, Secrets: &redact.Secrets{}})
	}
	quiet := slog.New(slog.DiscardHandler)
	dir := files(t, nil)
	in := Parameters{BindingsDir: dir, BindingsTimeout: 60}
	if got, err := wait(t.Context(), quiet, in); err != nil || len(got) > 0 {
		t.Errorf("not required: %v, %v", got, err)
	}
	in.BindingsRequired = true
	var told bytes.Buffer
	late := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		if told.Len() == 0 { // it waits: now they come
			if err := os.WriteFile(filepath.Join(dir, "npm.type"), []byte("npmrc"), 0o644); err != nil {
				t.Error(err)
			}
		}
		return told.Write(p)
	}), nil))
	if got, err := wait(t.Context(), late, in); err != nil || got["npm"] == nil ||
		!strings.Contains(told.String(), "The Secret of the bindings is there") {
		t.Errorf("late: %v, %v, %s", got, err, told.String())
	}
	in.BindingsDir, in.BindingsTimeout = filepath.Join(dir, "absent"), 0
	if _, err := wait(t.Context(), quiet, in); outcome.Of(err).Reason != outcome.InvalidParameters ||
		!strings.Contains(outcome.Of(err).Message, "no binding appeared") {
		t.Errorf("absent: %v", err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	in.BindingsTimeout = 60
	if _, err := wait(ctx, quiet, in); !errors.Is(err, stopped) {
		t.Errorf("stopped: %v", err)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Bindings reach buildpacks, and neither image nor cache nor log.
func TestBindingsStayOutOfTheImage(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	const token = "//npm.example.com/:_authToken=" + canary
	for name, keys := range map[string]map[string]string{
		"folders":  {"npm/type": "npmrc", "npm/.npmrc": token},
		"a Secret": {"npm.type": "npmrc", "npm..npmrc": token},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newWorkspace(t, greeter)
			p := newPod(t, registry, dir, "BINDINGS_REQUIRED", "true")
			p.mounts = map[string]string{"/etc/stepwright/bindings": files(t, keys)}
			e := builds(t, p)
			for _, want := range []string{".npmrc", "type"} {
				if !strings.Contains(e.output, "binding /platform/bindings/npm/"+want+"\n") {
					t.Errorf("buildpacks do not see %s\n%s", want, e.output)
				}
			}
			if !strings.Contains(e.output, "its content: ***") || strings.Contains(e.output, canary) ||
				find(t, dir, canary) {
				t.Errorf("a binding got out\n%s", e.output)
			}
		})
	}
	p := newPod(t, registry, newWorkspace(t, greeter), "BINDINGS_REQUIRED", "true", "BINDINGS_TIMEOUT", "0")
	if e := p.run(t); e.outcome.Reason != outcome.InvalidParameters {
		t.Errorf("without: %+v", e.outcome)
	}
}
