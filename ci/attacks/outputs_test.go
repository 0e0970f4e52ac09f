package attacks

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A step leaves its results where it was told to, and nowhere else: what a user's code has put there before it, in the
// place of a result or of the whole folder, is neither followed nor waited for.
func TestResultsFollowNothing(t *testing.T) {
	for name, test := range map[string]struct {
		plant func(results, message, outside string) error
		lost  bool // whether there can be no outcome.json
	}{
		"a link at outcome.json": {plant: func(results, _, outside string) error {
			return errors.Join(os.Mkdir(results, 0o777), os.Symlink(outside, filepath.Join(results, "outcome.json")))
		}},
		"a link at a result": {plant: func(results, _, outside string) error {
			return errors.Join(os.Mkdir(results, 0o777), os.Symlink(outside, filepath.Join(results, "workload")))
		}},
		"hard links": {plant: func(results, _, outside string) error {
			return errors.Join(os.Mkdir(results, 0o777), os.Link(outside, filepath.Join(results, "outcome.json")),
				os.Link(outside, filepath.Join(results, "workload")))
		}},
		"a dangling link": {plant: func(results, _, outside string) error {
			return errors.Join(os.Mkdir(results, 0o777),
				os.Symlink(outside+".new", filepath.Join(results, "outcome.json")))
		}},
		"a pipe": {plant: func(results, _, _ string) error {
			return errors.Join(os.Mkdir(results, 0o777),
				syscall.Mkfifo(filepath.Join(results, "outcome.json"), 0o666),
				syscall.Mkfifo(filepath.Join(results, "workload"), 0o666))
		}},
		"a folder": {plant: func(results, _, _ string) error {
			return os.MkdirAll(filepath.Join(results, "outcome.json/full"), 0o777)
		}},
		"the folder is a link": {lost: true, plant: func(results, _, outside string) error {
			return os.Symlink(filepath.Dir(outside), results)
		}},
		"the folder is a link to nothing": {lost: true, plant: func(results, _, outside string) error {
			return os.Symlink(filepath.Join(filepath.Dir(outside), "new"), results)
		}},
		"the folder is a file": {lost: true, plant: func(results, _, _ string) error {
			return os.WriteFile(results, nil, 0o644)
		}},
		"the message is a link": {plant: func(_, message, outside string) error {
			return os.Symlink(outside, message)
		}},
		"the message is a pipe": {plant: func(_, message, _ string) error { return syscall.Mkfifo(message, 0o666) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, precious := t.TempDir(), t.TempDir()
			outside := filepath.Join(precious, "precious")
			results, message := filepath.Join(dir, "results"), filepath.Join(dir, "message")
			if err := errors.Join(os.WriteFile(outside, []byte("precious"), 0o644),
				test.plant(results, message, outside)); err != nil {
				t.Fatal(err)
			}
			for _, image := range []string{"registry.example.com/acme/cart:v1", "no image"} {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, filepath.Join(bin, "generate-workload-cr"), "--dry-run",
					"--workspace="+filepath.Join(dir, "none"), "--image="+image, "--namespace-name=acme",
					"--project-name=shop", "--component-name=cart", "--results-dir="+results,
					"--termination-message-path="+message)
				cmd.Env = []string{"HOME=" + dir}
				out, err := cmd.CombinedOutput()
				if ctx.Err() != nil {
					t.Fatalf("it does not end: %s", out)
				}
				if test.lost && err == nil {
					t.Errorf("it says that it succeeded: %s", out)
				}
				info, err := os.Lstat(filepath.Join(results, "outcome.json"))
				if !test.lost && (err != nil || !info.Mode().IsRegular()) {
					t.Errorf("outcome.json is %v, %v\n%s", info, err, out)
				}
			}
			if raw, err := os.ReadFile(outside); err != nil || string(raw) != "precious" {
				t.Errorf("precious is now %q, %v", raw, err)
			}
			var beside []string
			entries, err := os.ReadDir(precious)
			for _, e := range entries {
				beside = append(beside, e.Name())
			}
			if err != nil || strings.Join(beside, " ") != "precious" {
				t.Errorf("beside it are %v, %v", beside, err)
			}
		})
	}
}
