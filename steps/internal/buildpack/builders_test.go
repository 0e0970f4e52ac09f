package buildpack

import (
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
)

// family unpacks the builder of a family, and puts its run image into a registry.
func family(t testing.TB, name string) (root string, f testbuilders.Family, run v1.Image, environ []string) {
	t.Helper()
	dir, err := baseimages.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	store := testbuilders.Store{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if err := store.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, candidate := range testbuilders.Families() {
		if candidate.Name == name {
			f = candidate
		}
	}
	builder, err := store.Image(f.Builder)
	if err != nil {
		t.Fatal(err)
	}
	if run, err = store.Image(f.Run); err != nil {
		t.Fatal(err)
	}
	config, err := builder.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := builderRoot(); err != nil { // for the programs
		t.Fatal(err)
	}
	root, err = os.MkdirTemp(scratch, "family-")
	if err != nil {
		t.Fatal(err)
	}
	content := mutate.Extract(builder)
	defer content.Close()
	tar := exec.Command("tar", "-x", "-p", "--numeric-owner", "-C", root)
	tar.Stdin = content
	if out, err := tar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, dir := range []string{
		"opt/stepwright", "workspace", "layers", "platform", "mnt/vol", "proc", "dev", "tmp",
		"app/generated-artifacts",
	} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(
		filepath.Join(scratch, "programs", "buildpacks-build"),
		filepath.Join(root, "opt/stepwright/buildpacks-build"),
	); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root, f, run, config.Config.Env
}

// example are the files of one of the project's examples.
func example(t testing.TB, name string) map[string]string {
	t.Helper()
	files := map[string]string{}
	root := os.DirFS(filepath.Join("..", "..", "..", "examples", name))
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		raw, err := io.ReadAll(f)
		files[path] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A builder of real parts, with a folder of its own to write to, builds alike twice, and takes the cache when a line
// has changed. The other families go the same way, and take the race detector minutes to unpack: what runs the examples
// tests them.
func TestBuildsOfExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("builds by builders of Debian packages")
	}
	tests := []struct {
		family, example, change string
	}{
		{"ballerina", "patient-management-service", "service.bal"},
	}
	for _, test := range tests {
		t.Run(test.example, func(t *testing.T) {
			root, f, run, environ := family(t, test.family)
			registry := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous, registrytest.OnDisk)
			registry.Push(t, "base/run:1", run)
			build := func(files map[string]string, variables ...string) (podEnding, string) {
				dir := newWorkspace(t, files)
				p := newPod(t, registry, dir, variables...)
				p.root, p.user, p.group, p.writable = root, f.BuildUser.UID, f.BuildUser.GID, f.Writable
				for _, v := range environ {
					name, value, _ := strings.Cut(v, "=")
					p.variables[name] = value
				}
				return builds(t, p), dir
			}
			files := example(t, test.example)
			first, dir := build(files)
			publish(t, registry, dir, first)
			again, _ := build(files, "CACHE", "disabled")
			if a, b := first.outcome.Results["image-digest"], again.outcome.Results["image-digest"]; a != b {
				t.Errorf("two builds gave %s and %s", a, b)
			}
			files[test.change] = strings.Replace(files[test.change], "\n", "\n// changed\n", 1)
			changed, _ := build(files)
			if changed.outcome.Results["image-digest"] == first.outcome.Results["image-digest"] {
				t.Error("a change changes nothing")
			}
			if registry.Has(t, "apps/acme-shop-greeter:cache") &&
				!strings.Contains(changed.output, "Took the cache of the last build") {
				t.Errorf("the cache was not taken:\n%s", changed.output)
			}
			t.Logf(
				"first %s, again without a cache %s, changed with the cache %s", first.took.Round(time.Millisecond),
				again.took.Round(time.Millisecond), changed.took.Round(time.Millisecond),
			)
		})
	}
}
