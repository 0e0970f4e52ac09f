package outcome

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/schemas"
)

// The constants are the schema's list, no more and no less, in its order.
func TestReasonsAreThoseOfTheSchema(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "outcome.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var constants []string
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok && fmt.Sprint(v.Type) == "Reason" {
			name, _ := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			constants = append(constants, name)
		}
		return true
	})
	var listed []string
	for _, r := range schemas.Reasons() {
		listed = append(listed, r.Name)
	}
	if !slices.Equal(constants, listed) {
		t.Errorf("constants\n%q\nschema\n%q", constants, listed)
	}
}

func TestOf(t *testing.T) {
	denied := Errorf(PushDenied, "no right to push").WithHint("ask")
	tests := []struct {
		name    string
		err     error
		reason  Reason
		message string
		hint    string
	}{
		{"typed", denied, PushDenied, "no right to push", "ask"},
		{"typed, with context around it", fmt.Errorf("layer 3: %w", denied), PushDenied, "layer 3: no right to push",
			"ask"},
		{"the outermost reason counts", Errorf(Forbidden, "pushing: %w", denied), Forbidden,
			"pushing: no right to push", ""},
		{"a full disk, whatever it was taken for",
			Errorf(ImageInvalid, "blob: %w", &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}), OutOfSpace,
			"blob: write x: no space left on device", ""},
		{"a quota that is used up", fmt.Errorf("x: %w", syscall.EDQUOT), OutOfSpace, "x: disk quota exceeded", ""},
		{"cancelled", fmt.Errorf("get: %w", context.Canceled), Cancelled, "get: context canceled", ""},
		{"too late", fmt.Errorf("get: %w", context.DeadlineExceeded), Timeout, "get: context deadline exceeded", ""},
		{"anything else", errors.New("oops"), Failed, "oops", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := Of(test.err)
			if got.Reason != test.reason || got.Message != test.message || got.Hint != test.hint {
				t.Errorf("got %s, %q, %q", got.Reason, got.Message, got.Hint)
			}
			if !errors.Is(got, test.err) && got.Cause != nil && !errors.Is(test.err, got.Cause) {
				t.Error("the chain is broken")
			}
		})
	}
	if Of(nil) != nil {
		t.Error("no error has an outcome")
	}
}

func TestRetry(t *testing.T) {
	flaky := func(failures int, err error) (func(context.Context) error, *int) {
		calls := 0
		return func(context.Context) error {
			calls++
			if calls <= failures {
				return err
			}
			return nil
		}, &calls
	}
	transient := Errorf(RegistryUnavailable, "502")
	tests := []struct {
		name     string
		failures int
		err      error
		attempts int
		calls    int
		ok       bool
	}{
		{"succeeds at once", 0, nil, 5, 1, true},
		{"transient, then well", 2, transient, 5, 3, true},
		{"transient, wrapped", 2, fmt.Errorf("push: %w", transient), 5, 3, true},
		{"transient for too long", 9, transient, 3, 3, false},
		{"the user's fault is not tried again", 9, Errorf(RevisionNotFound, "no"), 5, 1, false},
		{"nor is what has no reason", 9, errors.New("oops"), 5, 1, false},
		{"no bound means once", 9, transient, 0, 1, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			try, calls := flaky(test.failures, test.err)
			err := Retry{Attempts: test.attempts, Base: time.Microsecond}.Do(t.Context(), try)
			if (err == nil) != test.ok || *calls != test.calls {
				t.Errorf("err %v after %d calls, want %d", err, *calls, test.calls)
			}
			if err != nil && err != test.err {
				t.Errorf("the last try's error was changed: %v", err)
			}
		})
	}
}

func TestRetryHonoursRetryAfter(t *testing.T) {
	asked := Errorf(RegistryUnavailable, "429").After(80 * time.Millisecond)
	var at []time.Time
	err := Retry{Attempts: 2, Base: time.Microsecond}.Do(t.Context(), func(context.Context) error {
		at = append(at, time.Now())
		return asked
	})
	if !errors.Is(err, asked) || len(at) != 2 || at[1].Sub(at[0]) < 80*time.Millisecond {
		t.Errorf("err %v, tries at %v", err, at)
	}
	// A server may ask for hours; a step does not wait that long.
	started := time.Now()
	Retry{Attempts: 2, Max: time.Millisecond}.Do(t.Context(), func(context.Context) error {
		return Errorf(RegistryUnavailable, "x").After(time.Hour)
	})
	if time.Since(started) > 10*time.Second {
		t.Error("waited as long as the server asked")
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"soon":                          0,
		"99999999999999":                1 << 20 * time.Second,
		"Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second,
		"Wed, 31 Dec 2025 00:00:30 GMT": 0,
	} {
		if got := RetryAfter(header, now); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

func TestRetryEndsWithTheContext(t *testing.T) {
	stopped := Errorf(Cancelled, "stopped by terminated")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := Retry{Attempts: 5, Base: time.Hour, Max: time.Hour}.Do(ctx, func(context.Context) error {
		time.AfterFunc(time.Millisecond, func() { cancel(stopped) })
		return Errorf(ApiUnavailable, "503")
	})
	if !errors.Is(err, stopped) {
		t.Errorf("got %v", err)
	}
}

func TestReportIsWhatTheSchemaSays(t *testing.T) {
	mask := strings.NewReplacer("hunter2", "***").Replace
	for name, failure := range map[string]*Error{
		"success": nil,
		"failure": Errorf(PushDenied, "user hunter2 may not push").WithHint("not with hunter2"),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			report := NewReport("publish-image", time.Now().Add(-time.Second), failure, map[string]string{
				"image": "r/i:v1",
				"note":  "hunter2",
			}, mask)
			if err := report.Write(dir, ""); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(dir, "outcome.json"))
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Fatal(err)
			}
			if faults := schemas.MustLoad("outcome").Validate(value); len(faults) > 0 {
				t.Errorf("%v\n%s", faults, raw)
			}
			if report.PeakMemoryBytes < 1<<20 {
				t.Errorf("peak memory is %d bytes", report.PeakMemoryBytes)
			}
			if strings.Contains(string(raw), "hunter2") {
				t.Errorf("a secret: %s", raw)
			}
			if image, _ := os.ReadFile(filepath.Join(dir, "image")); string(image) != "r/i:v1" {
				t.Errorf("image is %q", image)
			}
		})
	}
}

func TestTerminationMessage(t *testing.T) {
	long := strings.Repeat("é", 5000)
	tests := []struct {
		name    string
		failure *Error
		want    string // beginning
		end     string
	}{
		{"one line", Errorf(RevisionNotFound, "branch \"x\" is not there").WithHint("Look."),
			"RevisionNotFound: branch \"x\" is not there. Look.", ""},
		{"the reason's own hint", Errorf(RevisionNotFound, "no x."),
			"RevisionNotFound: no x. " + RevisionNotFound.Hint(), ""},
		{"a list", Errorf(InvalidParameters, "2 faults:\n  - a\n  - b").WithHint("Mend."),
			"InvalidParameters: 2 faults:\n  - a\n  - b\nMend.", ""},
		{"too long for Kubernetes", Errorf(BuildFailed, "%s", long).WithHint("Look."), "BuildFailed: éé", "é. Look."},
		{"success leaves nothing of what was there before", nil, "", ""},
		{
			"what a terminal would obey",
			Errorf(BuildFailed, "a\x1b[2J\r\n::error::\u202eb\xff\a").WithHint("L\x1b[mook."),
			`BuildFailed: a\x1b[2J` + "\n" + `\x3a:error::\u202eb\xff\x07` + "\n", `L\x1b[mook.`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "termination-log")
			os.WriteFile(path, []byte("before"), 0o600)
			if err := NewReport("s", time.Now(), test.failure, nil, strings.Clone).Write(
				t.TempDir(), path,
			); err != nil {
				t.Fatal(err)
			}
			raw, _ := os.ReadFile(path)
			got := string(raw)
			if !strings.HasPrefix(got, test.want) || !strings.HasSuffix(got, test.end) || len(got) > 4096 ||
				strings.ToValidUTF8(got, "?") != got {
				t.Errorf("%d bytes: %.300q … %q", len(got), got, got[max(0, len(got)-20):])
			}
		})
	}
	t.Run("without the file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "termination-log")
		if err := NewReport("s", time.Now(), Errorf(Failed, "x"), nil, strings.Clone).Write(
			t.TempDir(), path,
		); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("a file was made on a machine that is no pod")
		}
	})
}

// A report is read as what it is: what somebody left.
func TestRead(t *testing.T) {
	report := func(t *testing.T, dir, text string) {
		if err := os.WriteFile(filepath.Join(dir, reportFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			if err := os.Symlink(to, filepath.Join(dir, reportFile)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		leave func(t *testing.T, dir string)
		words string // of the error; empty: it is read
	}{
		"a report": {func(t *testing.T, dir string) {
			r := NewReport("s", time.Now(), Errorf(BuildFailed, "x"), nil, strings.Clone)
			if err := r.Write(dir, ""); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"hostile texts": {func(t *testing.T, dir string) {
			report(t, dir, `{"step":"\u001b[2J","reason":"BuildFailed","class":"\n",`+
				`"message":"a\u001b]8;;x\u0007\ud800","hint":"\u202e","results":{"image":"x\n{{workflow.name}}"}}`)
		}, ""},
		"nothing":  {func(*testing.T, string) {}, "no such file"},
		"a link":   {link("/etc/hostname"), "not a regular file"},
		"a device": {link("/dev/zero"), "not a regular file"},
		"a folder": {func(_ *testing.T, dir string) {
			os.Mkdir(filepath.Join(dir, reportFile), 0o755)
		}, "not a regular file"},
		"a pipe": {func(_ *testing.T, dir string) {
			syscall.Mkfifo(filepath.Join(dir, reportFile), 0o644)
		}, "not a regular file"},
		"no JSON":        {func(t *testing.T, dir string) { report(t, dir, "{") }, "outcome.json"},
		"no reason":      {func(t *testing.T, dir string) { report(t, dir, "{}") }, "no reason"},
		"unknown reason": {func(t *testing.T, dir string) { report(t, dir, `{"reason":"X"}`) }, "no reason"},
		"too large": {func(t *testing.T, dir string) {
			report(t, dir, "{}")
			if err := os.Truncate(filepath.Join(dir, reportFile), 1<<30); err != nil {
				t.Fatal(err)
			}
		}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.leave(t, dir)
			r, err := Read(dir)
			if test.words != "" {
				if err == nil || !strings.Contains(err.Error(), test.words) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || r.Reason != BuildFailed || r.Class != User {
				t.Fatalf("%+v, %v", r, err)
			}
			for _, text := range []string{r.Step, r.Message, r.Hint, r.Line(), r.Results["image"]} {
				if text != quote.Text(text, 0) || strings.Contains(text, "{{") {
					t.Errorf("%q is not fit to be shown", text)
				}
			}
		})
	}
}

// What a step leaves at its beginning is what remains of one that is killed, and goes when it ends otherwise.
func TestStarted(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "termination-log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Started("s", time.Now()).Write(dir, path); err != nil {
		t.Fatal(err)
	}
	r, err := Read(dir)
	raw, _ := os.ReadFile(path)
	if err != nil || r.Reason != Killed || r.ExitCode != 137 || r.Step != "s" ||
		!strings.HasPrefix(string(raw), "Killed: the step was killed before it could say how it ended") {
		t.Errorf("%+v, %v, %q", r, err, raw)
	}
	if err := NewReport("s", time.Now(), nil, nil, strings.Clone).Write(dir, path); err != nil {
		t.Fatal(err)
	}
	r, err = Read(dir)
	raw, _ = os.ReadFile(path)
	if err != nil || r.Failed() || len(raw) > 0 {
		t.Errorf("%+v, %v, %q", r, err, raw)
	}
}
