package outcome

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Nothing that stands in the folder of results, or in its place, is followed, written through or waited for.
func TestReportFollowsNothing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(dir, outside string) error
		refused string // words of the error; empty: all is written
	}{
		"nothing there": {func(string, string) error { return nil }, ""},
		"links": {func(dir, outside string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "r"), 0o755),
				os.Symlink(outside, filepath.Join(dir, "r/outcome.json")),
				os.Symlink(outside, filepath.Join(dir, "r/image")))
		}, ""},
		"hard links": {func(dir, outside string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "r"), 0o755),
				os.Link(outside, filepath.Join(dir, "r/outcome.json")), os.Link(outside, filepath.Join(dir, "r/image")))
		}, ""},
		"pipes": {func(dir, _ string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "r"), 0o755),
				syscall.Mkfifo(filepath.Join(dir, "r/outcome.json"), 0o644),
				syscall.Mkfifo(filepath.Join(dir, "r/image"), 0o644))
		}, ""},
		"folders": {func(dir, _ string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "r/outcome.json/x"), 0o755),
				os.MkdirAll(filepath.Join(dir, "r/image"), 0o755))
		}, ""},
		"the folder is a link": {func(dir, outside string) error {
			return os.Symlink(filepath.Dir(outside), filepath.Join(dir, "r"))
		}, "is a symbolic link"},
		"the message is a link": {func(dir, outside string) error {
			message := filepath.Join(dir, "message")
			return errors.Join(os.Remove(message), os.Symlink(outside, message))
		}, "message"},
		"the message is a pipe": {func(dir, _ string) error {
			message := filepath.Join(dir, "message")
			return errors.Join(os.Remove(message), syscall.Mkfifo(message, 0o644))
		}, "message"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "precious")
			if err := errors.Join(
				os.WriteFile(outside, []byte("precious"), 0o644),
				os.WriteFile(filepath.Join(dir, "message"), nil, 0o644), test.prepare(dir, outside),
			); err != nil {
				t.Fatal(err)
			}
			failure, results := Errorf(BuildFailed, "it broke"), map[string]string{"image": "r/i"}
			report := NewReport("a-step", time.Now(), failure, results, strings.Clone)
			err := report.Write(filepath.Join(dir, "r"), filepath.Join(dir, "message"))
			if test.refused != "" {
				if err == nil || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("got %v", err)
				}
			} else if got, err := Read(filepath.Join(dir, "r")); err != nil || got.Reason != BuildFailed {
				t.Errorf("got %+v, %v", got, err)
			} else if raw, err := os.ReadFile(filepath.Join(dir, "r/image")); err != nil || string(raw) != "r/i" {
				t.Errorf("got %q, %v", raw, err)
			} else if left, err := os.ReadDir(filepath.Join(dir, "r")); err != nil || len(left) != 2 {
				t.Errorf("left %v, %v", left, err)
			}
			if raw, err := os.ReadFile(outside); err != nil || string(raw) != "precious" {
				t.Errorf("precious is %q, %v", raw, err)
			}
			if beside, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(beside) != 1 {
				t.Errorf("beside it are %v, %v", beside, err)
			}
		})
	}
}
