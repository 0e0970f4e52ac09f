package workspace_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// folder is one with a single file.
func folder(t *testing.T, path, file string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, file), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		there, made bool
		left        string
	}{
		"nothing there":    {false, true, "new"},
		"something there":  {true, true, "new"},
		"nothing made":     {true, false, "old"},
		"neither is there": {false, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			finished, to := filepath.Join(dir, "finished"), filepath.Join(dir, "image")
			if test.there {
				folder(t, to, "old")
			}
			if test.made {
				folder(t, finished, "new")
			}
			if err := workspace.Replace(finished, to); (err == nil) != test.made {
				t.Errorf("got %v", err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
			if err != nil || test.left == "" && len(files) > 0 ||
				test.left != "" && (len(files) != 1 || files[0] != filepath.Join(to, test.left)) {
				t.Errorf("left %v, %v, want %q", files, err, test.left)
			}
		})
	}
}

// What an attempt staged that was killed is removed by the next one, wherever it was staged, and nothing else is.
func TestRemoveUnfinished(t *testing.T) {
	t.Parallel()
	w := workspace.Workspace(t.TempDir())
	for _, dir := range []string{w.Source(), w.Image(), w.Cache()} {
		folder(t, dir, "kept")
	}
	for _, to := range []string{w.Image(), filepath.Join(w.Image(), "below"), filepath.Join(w.Cache(), "below")} {
		staged, err := workspace.Stage(to)
		if err != nil {
			t.Fatal(err)
		}
		folder(t, staged+".old", "replaced")
	}
	if err := w.RemoveUnfinished(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, pattern := range []string{".*", "*", "*/.*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(string(w), pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	slices.Sort(left)
	want := []string{
		w.Cache(), filepath.Join(w.Cache(), "kept"), w.Image(), filepath.Join(w.Image(), "kept"), w.Source(),
		filepath.Join(w.Source(), "kept"),
	}
	if left = slices.Compact(left); !slices.Equal(left, want) {
		t.Errorf("left %q, want %q", left, want)
	}
}

// Where a pod has only one folder of the workspace, what is made changes places with what is there.
func TestReplaceAMountPoint(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it mounts a folder, for which it must be root")
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a folder, so it needs root")
	}
	for name, onlyTheFolder := range map[string]bool{"a volume's folder": false, "its parent is read-only": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			volume, pod := t.TempDir(), t.TempDir()
			to := filepath.Join(pod, "image")
			folder(t, filepath.Join(volume, "blobs"), "old")
			folder(t, volume, "index.json")
			folder(t, filepath.Join(volume, ".staging-of-another"), "file")
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			mount := func(from, at string, flags uintptr) {
				t.Helper()
				if err := unix.Mount(from, at, "", flags, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
			}
			if onlyTheFolder {
				mount(pod, pod, unix.MS_BIND)
				mount("", pod, unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
			}
			mount(volume, to, unix.MS_BIND)
			staging, err := workspace.Stage(to)
			if err != nil || filepath.Dir(staging) != to {
				t.Fatalf("staged in %s, %v", staging, err)
			}
			finished := filepath.Join(staging, "image")
			folder(t, filepath.Join(finished, "blobs"), "new")
			folder(t, finished, "oci-layout")
			if err := workspace.Replace(finished, to); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(staging); err != nil {
				t.Errorf("something is left: %v", err)
			}
			var left []string
			if err := filepath.WalkDir(volume, func(path string, e os.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					path, err = filepath.Rel(volume, path)
					left = append(left, path)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if want := []string{".staging-of-another/file", "blobs/new", "oci-layout"}; !slices.Equal(left, want) {
				t.Errorf("left %v, want %v", left, want)
			}
		})
	}
}

func TestStage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, to := range []string{filepath.Join(dir, "image"), filepath.Join(dir, "there")} {
		if filepath.Base(to) == "there" {
			folder(t, to, "old")
		}
		staging, err := workspace.Stage(to)
		if err != nil || filepath.Dir(staging) != dir || filepath.Base(staging)[0] != '.' {
			t.Fatalf("staged in %s, %v", staging, err)
		}
		finished := filepath.Join(staging, "image")
		folder(t, finished, "new")
		if err := workspace.Replace(finished, to); err != nil {
			t.Error(err)
		}
		if entries, err := os.ReadDir(to); err != nil || len(entries) != 1 || entries[0].Name() != "new" {
			t.Errorf("left %v, %v", entries, err)
		}
	}
}

func TestMakeReadable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "sbom")
	inner := filepath.Join(dir, "launch")
	folder(t, inner, "bom.json")
	if err := os.Chmod(inner, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := workspace.MakeReadable(dir); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{inner: 0o755, filepath.Join(inner, "bom.json"): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info, err, want)
		}
	}
}
