package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/images/layouts"
	"github.com/stepwright/stepwright/internal/testimage/imagetest"
)

// scratch is for what the tests share. Other users may enter it.
var scratch string

func TestMain(m *testing.M) { imagetest.Main(m, &scratch) }

// executable is the command. It is built without the race detector, which makes compression take very long.
var executable = sync.OnceValues(func() (string, error) {
	path := filepath.Join(scratch, "images")
	_, err := output(exec.Command("go", "build", "-o", path, "."))
	return path, err
})

// run runs the command.
func run(t testing.TB, environment []string, args ...string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the images of the steps")
	}
	path, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(os.Environ(), environment...)
	out, err := output(cmd)
	return string(out), err
}

// clone is a repository in a folder of its own with this one's files, as they are now. All clones have the same one
// commit.
func clone(t testing.TB, dir string) string {
	t.Helper()
	listed, err := git(t.Context(), "..", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(listed, "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join("..", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and not yet committed
		}
		path := filepath.Join(dir, name)
		if err := errors.Join(
			err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644),
		); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet"},
		{"add", "--all"},
		{"-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false", "commit", "--quiet",
			"--message=All"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE="+committed.Format(time.RFC3339), "GIT_COMMITTER_DATE="+
			committed.Format(time.RFC3339))
		if _, err := output(cmd); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// committed is when the commit was made that the tests' images are of.
var committed = time.Date(2026, time.March, 4, 5, 6, 7, 0, time.UTC)

const version = "v1.2.3"

// made holds the images of all steps for this machine. They are built once.
var made struct {
	once     sync.Once
	dir, out string
	source   string
}

func madeImages(t testing.TB) (dir string) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds the images of the steps")
	}
	made.once.Do(func() {
		made.source = clone(t, filepath.Join(scratch, "source"))
		made.dir = filepath.Join(scratch, "made")
		var err error
		if made.out, err = run(
			t, nil, "build", "--source", made.source, "--dir", made.dir, "--version", version, "--arch",
			runtime.GOARCH,
		); err != nil {
			t.Fatal(err)
		}
	})
	if made.out == "" {
		t.Fatal("the images could not be built: see the test that tried first")
	}
	return made.dir
}

// platforms returns the images of a layout by architecture, and its digest.
func platforms(t testing.TB, dir string) (map[string]v1.Image, v1.Hash) {
	t.Helper()
	index, _, err := layouts.Index(dir)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if manifest.MediaType != types.OCIImageIndex {
		t.Errorf("media type %s", manifest.MediaType)
	}
	all := map[string]v1.Image{}
	for _, descriptor := range manifest.Manifests {
		if descriptor.Platform == nil || descriptor.Platform.OS != "linux" {
			t.Fatalf("platform %v", descriptor.Platform)
		}
		if all[descriptor.Platform.Architecture], err = index.Image(descriptor.Digest); err != nil {
			t.Fatal(err)
		}
	}
	return all, digest
}

func layersOf(t testing.TB, img v1.Image) []v1.Hash {
	t.Helper()
	manifest, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var digests []v1.Hash
	for _, layer := range manifest.Layers {
		digests = append(digests, layer.Digest)
	}
	return digests
}

// walk calls visit for every file of every layer, the lowest first.
func walk(t testing.TB, img v1.Image, visit func(header *tar.Header, content io.Reader)) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		imagetest.Walk(t, layer, visit)
	}
}

func TestImages(t *testing.T) {
	dir := madeImages(t)
	commit, err := git(t.Context(), made.source, "rev-parse", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	always := []string{
		"drwxr-xr-x etc/", "-rw-r--r-- etc/group", "-rw-r--r-- etc/passwd", "drwxr-xr-x etc/ssl/",
		"drwxr-xr-x etc/ssl/certs/",
		"-rw-r--r-- etc/ssl/certs/ca-certificates.crt", "dtrwxrwxrwx tmp/", "drwxr-xr-x usr/",
		"drwxr-xr-x usr/local/", "drwxr-xr-x usr/local/bin/",
	}
	// Of issue and README: they hold whatever the table says.
	limits := map[string]int64{
		"checkout-source":      8_000_000,
		"containerfile-build":  24_000_000,
		"buildpacks-build":     8_000_000,
		"scan-gate":            8_000_000,
		"commit-status":        8_000_000,
		"publish-image":        8_000_000,
		"generate-workload-cr": 8_000_000,
	}
	var system []v1.Hash
	for step, limit := range limits {
		t.Run(step, func(t *testing.T) {
			index, tag, err := layouts.Index(filepath.Join(dir, step))
			if err != nil {
				t.Fatal(err)
			}
			if err := validate.Index(index, validate.Fast); err != nil {
				t.Error(err)
			}
			if tag != version {
				t.Errorf("tag %q", tag)
			}
			all, digest := platforms(t, filepath.Join(dir, step))
			if !strings.Contains(made.out, step) || !strings.Contains(made.out, digest.String()) {
				t.Errorf("%s is not told:\n%s", digest, made.out)
			}
			img := all[runtime.GOARCH]
			if img == nil || len(all) != 1 {
				t.Fatalf("platforms %v", slices.Collect(maps.Keys(all)))
			}
			if size, err := sizeOf(img); err != nil || size > limit || size < 1_000_000 {
				t.Errorf("%d bytes compressed, may be %d: %v", size, limit, err)
			}

			config, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if config.OS != "linux" || config.Architecture != runtime.GOARCH || !config.Created.Equal(committed) {
				t.Errorf("%s/%s, created %s", config.OS, config.Architecture, config.Created)
			}
			want := v1.Config{
				User: "1000:1000", Env: []string{"PATH=/usr/local/bin"}, Entrypoint: []string{"/usr/local/bin/" + step},
				Labels: map[string]string{
					"org.opencontainers.image.title":   step,
					"org.opencontainers.image.source":  "https://github.com/stepwright/stepwright",
					"org.opencontainers.image.version": version, "org.opencontainers.image.revision": commit,
					"org.opencontainers.image.created": "2026-03-04T05:06:07Z",
				},
			}
			if diff := cmp.Diff(want, config.Config); diff != "" {
				t.Error(diff)
			}

			files := slices.Clone(always)
			programs := []string{step}
			if step == "containerfile-build" {
				programs = append(programs, "checkout-source", "runc")
			}
			for _, p := range programs {
				files = append(files, "-rwxr-xr-x usr/local/bin/"+p)
			}
			var has []string
			walk(t, img, func(header *tar.Header, content io.Reader) {
				has = append(has, header.FileInfo().Mode().String()+" "+header.Name)
				if header.Uid != 0 || header.Gid != 0 || header.Uname != "" || !header.ModTime.Equal(beginning) {
					t.Errorf("%s is of %d:%d %q, %s", header.Name, header.Uid, header.Gid, header.Uname, header.ModTime)
				}
				_, capable := header.PAXRecords[capabilityRecord]
				if capable != (header.Name == "usr/local/bin/containerfile-build") {
					t.Errorf("%s has file capabilities: %t", header.Name, capable)
				}
				if filepath.Dir(header.Name) == binDir && header.Typeflag == tar.TypeReg {
					checkStatic(t, header.Name, content)
				}
			})
			slices.Sort(has)
			slices.Sort(files)
			if diff := cmp.Diff(files, slices.Compact(has)); diff != "" {
				t.Error(diff)
			}
			system = append(system, layersOf(t, img)[0])
		})
	}
	if len(slices.Compact(system)) != 1 {
		t.Errorf("the first layers differ: %v", system)
	}
}

// checkStatic tells of a program that needs a loader or libraries, for it has none, or is for another machine.
func checkStatic(t testing.TB, name string, content io.Reader) *elf.File {
	t.Helper()
	data, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range parsed.Progs {
		if p.Type == elf.PT_INTERP {
			t.Errorf("%s needs a loader", name)
		}
	}
	return parsed
}

// The authorities are Mozilla's, and not those that this machine's administrator trusts besides.
func TestCertificates(t *testing.T) {
	bundle, err := certificateBundle()
	if err != nil {
		t.Fatal(err)
	}
	authorities, err := filepath.Glob("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(bundle, []byte("-----BEGIN CERTIFICATE-----\n")); n != len(authorities) || n < 100 {
		t.Errorf("%d certificates of %d", n, len(authorities))
	}
}

// Built again from the same commit in another folder, with other settings in the environment, everything is the same.
func TestReproducible(t *testing.T) {
	dir := madeImages(t)
	again := filepath.Join(t.TempDir(), "again")
	source := clone(t, filepath.Join(t.TempDir(), "elsewhere"))
	environment := []string{"TMPDIR=" + t.TempDir(), "GOFLAGS=-buildvcs=true", "GOAMD64=v2", "TZ=Asia/Colombo"}
	out, err := run(
		t, environment, "build", "--source", source, "--dir", again, "--version", version, "--arch", runtime.GOARCH,
	)
	if err != nil {
		t.Fatal(err)
	}
	if before, after := contents(t, dir), contents(t, again); !maps.Equal(before, after) {
		t.Errorf("they differ:\n%s%s", made.out, out)
	}
}

// contents returns the files under a directory.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir)] = string(data)
		return err
	})
	if err != nil || len(files) == 0 {
		t.Fatal("nothing there: ", err)
	}
	return files
}

func TestPlatforms(t *testing.T) {
	dir := t.TempDir()
	madeImages(t)
	if _, err := run(
		t, nil, "build", "--source", made.source, "--dir", dir, "--version", version, "publish-image",
	); err != nil {
		t.Fatal(err)
	}
	all, _ := platforms(t, filepath.Join(dir, "publish-image"))
	if has := slices.Sorted(maps.Keys(all)); !slices.Equal(has, []string{"amd64", "arm64"}) {
		t.Fatalf("platforms %v", has)
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for architecture, img := range all {
		if config, err := img.ConfigFile(); err != nil || config.Architecture != architecture {
			t.Errorf("%s is configured as %s: %v", architecture, config.Architecture, err)
		}
		if size, err := sizeOf(img); err != nil || size > 8_000_000 {
			t.Errorf("%s has %d bytes compressed: %v", architecture, size, err)
		}
		walk(t, img, func(header *tar.Header, content io.Reader) {
			if header.Name != "usr/local/bin/publish-image" {
				return
			}
			if machine := checkStatic(t, header.Name, content).Machine; machine != machines[architecture] {
				t.Errorf("%s has a program for %s", architecture, machine)
			}
		})
	}
	if !layersEqual(t, all["amd64"], all["arm64"], 0) {
		t.Error("the platforms do not share their first layer")
	}
}

func layersEqual(t testing.TB, a, b v1.Image, i int) bool {
	t.Helper()
	return layersOf(t, a)[i] == layersOf(t, b)[i]
}

func TestSource(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the images of the steps")
	}
	dir := clone(t, t.TempDir())
	commit, err := git(t.Context(), dir, "rev-parse", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	describe := func(t *testing.T, version string) source {
		t.Helper()
		s, err := sourceIn(t.Context(), dir, version)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, step := range []struct {
		name, version, epoch string
		before               func() error
		want                 source
	}{
		{name: "no tag", want: source{version: commit[:12], revision: commit, time: committed}},
		{name: "version", version: "2.0.0", want: source{version: "2.0.0", revision: commit, time: committed}},
		{name: "epoch", epoch: "1000000000",
			want: source{version: commit[:12], revision: commit, time: time.Unix(1000000000, 0).UTC()}},
		{
			name:   "tag",
			before: func() error { _, err := git(t.Context(), dir, "tag", "v0.3.0"); return err },
			want:   source{version: "v0.3.0", revision: commit, time: committed},
		},
		{
			name:   "changed",
			before: func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
			want:   source{version: "v0.3.0-dirty", revision: commit + "-dirty", time: committed},
		},
	} {
		t.Run(step.name, func(t *testing.T) {
			if step.before != nil {
				if err := step.before(); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("SOURCE_DATE_EPOCH", step.epoch)
			step.want.dir = dir
			if diff := cmp.Diff(step.want, describe(t, step.version), cmp.AllowUnexported(source{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the images of the steps")
	}
	foreign := architectures[(slices.Index(architectures, runtime.GOARCH)+1)%len(architectures)]

	other := clone(t, t.TempDir())
	program := func(t *testing.T, text string) {
		t.Helper()
		if err := os.WriteFile(
			filepath.Join(other, "steps", "publish-image", "main.go"), []byte(text), 0o644,
		); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("too large", func(t *testing.T) {
		program(t, "package main\nfunc main() {}\n")
		dir := t.TempDir()
		_, err := build(t.Context(), source{dir: other}, []image{
			{step: "publish-image", limit: 100_000},
		}, []string{runtime.GOARCH}, dir)
		if err == nil || !strings.Contains(err.Error(), "image publish-image for "+runtime.GOARCH+" has ") {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	})
	t.Run("does not compile", func(t *testing.T) {
		program(t, "package main\nfunc main() { nonesuch() }\n")
		if _, err := run(t, nil, "build", "--source", other, "--dir", t.TempDir(), "publish-image"); err == nil ||
			!strings.Contains(err.Error(), "undefined: nonesuch") {
			t.Error(err)
		}
	})
	t.Run("no cross compiler", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		err := compileRunc(t.Context(), source{dir: ".."}, foreign, filepath.Join(t.TempDir(), "runc"))
		if missing, ok := errors.AsType[noToolchain](err); !ok || missing.architecture != foreign ||
			missing.missing != triplets[foreign]+"-gcc" {
			t.Error(err)
		}
	})
	t.Run("no such image", func(t *testing.T) {
		if _, err := run(t, nil, "build", "checkout"); err == nil ||
			!strings.Contains(err.Error(), `no image is called "checkout"`) {
			t.Error(err)
		}
	})
}

// The archive has the same bytes that setcap writes.
func TestFileCapabilities(t *testing.T) {
	path := filepath.Join(scratch, "capable")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := output(exec.Command("setcap", "cap_setuid,cap_setgid+p", path)); err != nil {
		t.Fatalf("setcap is in the Debian package libcap2-bin: %v", err)
	}
	value := make([]byte, 64)
	n, err := unix.Getxattr(path, "security.capability", value)
	if err != nil {
		t.Fatal(err)
	}
	if got := fileCapabilities([]int{unix.CAP_SETUID, unix.CAP_SETGID}); got != string(value[:n]) {
		t.Errorf("%x, setcap writes %x", got, value[:n])
	}
}
