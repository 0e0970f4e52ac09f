package dockerfile

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// The test's own executable is the builder, too.
func TestMain(m *testing.M) {
	buildkit.RunIfChild()
	scratch = must(os.MkdirTemp("", "dockerfile-test-*"))
	if err := os.Chmod(scratch, 0o755); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// busybox is a base image: a shell and little else, made once from Debian's package busybox-static.
var busybox = sync.OnceValues(func() (v1.Image, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	add := func(h tar.Header, content string) {
		h.Size, h.ModTime = int64(len(content)), time.Unix(1700000000, 0)
		if err := w.WriteHeader(&h); err != nil {
			panic(err)
		}
		io.WriteString(w, content)
	}
	for _, dir := range []string{"bin/", "etc/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program))
	add(tar.Header{
		Typeflag: tar.TypeReg,
		Name:     "etc/passwd",
		Mode:     0o644,
	}, "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
	for _, applet := range []string{
		"sh", "cat", "chown", "echo", "env", "id", "ls", "mkdir", "printf", "sleep", "seq", "stat", "test", "touch",
		"true",
		"false",
	} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, "")
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, &v1.ConfigFile{
		OS: "linux", Architecture: "amd64",
		RootFS: v1.RootFS{Type: "layers", DiffIDs: must(image.ConfigFile()).RootFS.DiffIDs},
		Config: v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
	})
})

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// newRegistry starts a registry that has docker.io/library/busybox:1.
func newRegistry(t testing.TB, options ...registrytest.Option) *registrytest.Registry {
	t.Helper()
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	image, err := busybox()
	if err != nil {
		t.Fatalf("the base image is made from the Debian package busybox-static: %v", err)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Fatalf("builds need the Debian package runc: %v", err)
	}
	r := registrytest.New(t, options...)
	r.Push(t, "library/busybox:1", image)
	return r
}

// commitTime is the time of the commit that every project is at.
var commitTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

const commit = "1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d"

// project makes a workspace with these files as its source. A value that starts with "-> " makes a symbolic link.
func project(t testing.TB, files map[string]string) workspace.Workspace {
	t.Helper()
	w := workspace.Workspace(t.TempDir())
	if err := os.Mkdir(w.Source(), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(w.Source(), name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteRevision(workspace.Revision{
		URL:    "https://git.example.com/acme/shop.git",
		Branch: "main",
		Commit: commit,
		Time:   commitTime,
	}); err != nil {
		t.Fatal(err)
	}
	return w
}

// parameters are the schema's defaults for a workspace, with base images from the registry.
func parameters(w workspace.Workspace, r *registrytest.Registry) Parameters {
	in := Parameters{
		Common:          step.Common{Workspace: w},
		DockerContext:   ".",
		DockerfilePath:  "./Dockerfile",
		SourceDateEpoch: -1,
		Timestamps:      "fixed",
		Provenance:      "min",
	}
	if r != nil {
		in.CABundle, in.RegistryPullSecret = r.CAFile, r.DockerConfig
		in.RegistryMirrors = []registry.Mirror{{Registry: "docker.io", Mirror: r.Host}}
		if strings.HasPrefix(r.URL, "http:") {
			in.InsecureRegistries = []string{r.Host}
		}
	}
	return in
}

// ending is what a run left.
type ending struct {
	results step.Results
	output  string // log and progress
	err     error
	report  []byte // of the build
}

// run runs the step. Transient failures are tried again at once.
func run(t testing.TB, ctx context.Context, in Parameters) ending {
	t.Helper()
	var out lockedBuffer
	secrets := &redact.Secrets{}
	stderr := secrets.Writer(&out)
	left := &step.Files{}
	results, err := Run(ctx, in, step.Environment{
		Log:     slog.New(slog.NewTextHandler(stderr, nil)),
		Stdout:  io.Discard,
		Stderr:  stderr,
		Secrets: secrets,
		Left:    left,
		Retry:   outcome.Retry{Attempts: 3, Base: time.Millisecond, Max: time.Millisecond},
	})
	stderr.Close()
	return ending{results, out.String(), err, left.All()[buildreport.Name]}
}

// succeed runs the step and returns the image.
func succeed(t testing.TB, in Parameters) built {
	t.Helper()
	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatalf("%v\n%s", end.err, end.output)
	}
	image := open1(t, in.Workspace)
	if got := end.results["image-digest"]; got != image.digest.String() {
		t.Fatalf("image-digest is %s, the layout's root is %s", got, image.digest)
	}
	return image
}

// fail runs the step, which must fail for the reason, with all these words in the message.
func fail(t testing.TB, in Parameters, reason outcome.Reason, words ...string) ending {
	t.Helper()
	end := run(t, t.Context(), in)
	if end.err == nil {
		t.Fatalf("did not fail\n%s", end.output)
	}
	failure := outcome.Of(end.err)
	if failure.Reason != reason {
		t.Errorf("reason is %s, want %s: %s", failure.Reason, reason, failure.Message)
	}
	for _, word := range words {
		if !strings.Contains(failure.Message, word) {
			t.Errorf("message lacks %q: %s", word, failure.Message)
		}
	}
	if _, err := os.Stat(in.Workspace.Image()); err == nil {
		t.Error("a failed build left an image")
	}
	if left := leftovers(t, in.Workspace); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	return end
}

// leftovers lists temporary files in the workspace.
func leftovers(t testing.TB, w workspace.Workspace) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(string(w), ".*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// built is an image read back from a layout.
type built struct {
	digest     v1.Hash
	image      v1.Image
	config     *v1.ConfigFile
	files      map[string]string      // content of regular files by path
	headers    map[string]*tar.Header // of everything by path
	provenance map[string]any         // the in-toto statement; nil when there is none
	rawBlobs   [][]byte
}

// open1 reads the one image in the workspace, and checks that the layout is complete and holds nothing else.
func open1(t testing.TB, w workspace.Workspace) built {
	t.Helper()
	var b built
	l, err := ocilayout.FromPath(w.Image())
	if err != nil {
		t.Fatal(err)
	}
	index := must(l.ImageIndex())
	top := must(index.IndexManifest())
	if len(top.Manifests) != 1 {
		t.Fatalf("the layout has %d roots", len(top.Manifests))
	}
	root := top.Manifests[0]
	b.digest = root.Digest
	reachable := map[string]bool{root.Digest.Hex: true}
	note := func(image v1.Image) {
		manifest := must(image.Manifest())
		reachable[manifest.Config.Digest.Hex] = true
		for _, l := range manifest.Layers {
			reachable[l.Digest.Hex] = true
		}
	}
	if root.MediaType.IsIndex() {
		nested := must(index.ImageIndex(root.Digest))
		for _, desc := range must(nested.IndexManifest()).Manifests {
			reachable[desc.Digest.Hex] = true
			image := must(nested.Image(desc.Digest))
			note(image)
			if desc.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
				b.image = image
				continue
			}
			statement := must(image.Manifest()).Layers[0]
			raw := must(os.ReadFile(filepath.Join(w.Image(), "blobs", "sha256", statement.Digest.Hex)))
			if err := json.Unmarshal(raw, &b.provenance); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		b.image = must(index.Image(root.Digest))
		note(b.image)
	}
	var blobs []string
	for _, e := range must(os.ReadDir(filepath.Join(w.Image(), "blobs", "sha256"))) {
		blobs = append(blobs, e.Name())
		raw := must(os.ReadFile(filepath.Join(w.Image(), "blobs", "sha256", e.Name())))
		if h, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || h.Hex != e.Name() {
			t.Errorf("blob %s has digest %s", e.Name(), h.Hex)
		}
		b.rawBlobs = append(b.rawBlobs, raw)
	}
	if want := slices.Sorted(maps.Keys(reachable)); !slices.Equal(blobs, want) {
		t.Errorf("blobs are %v, those that the image needs are %v", blobs, want)
	}
	var names []string
	for _, e := range must(os.ReadDir(w.Image())) {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"blobs", "index.json", "oci-layout"}) {
		t.Errorf("the layout's folder holds %v", names)
	}

	b.config = must(b.image.ConfigFile())
	b.files, b.headers = map[string]string{}, map[string]*tar.Header{}
	content := mutate.Extract(b.image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b.headers[filepath.Clean(h.Name)] = h
		if h.Typeflag == tar.TypeReg {
			b.files[filepath.Clean(h.Name)] = string(must(io.ReadAll(r)))
		}
	}
	return b
}

// env is the image's environment variable, and whether it has it.
func (b built) env(name string) (string, bool) {
	for _, v := range b.config.Config.Env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// environmentOf is the environment that a Dockerfile sets, as the frontend understands its first ENV.
func environmentOf(t testing.TB, s *source) map[string]string {
	t.Helper()
	tree, err := parser.Parse(bytes.NewReader(s.text))
	if err != nil {
		t.Fatalf("%v\n%s", err, s.text)
	}
	stages, _, err := instructions.Parse(tree.AST, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, s.text)
	}
	env := map[string]string{}
	for _, command := range stages[0].Commands {
		if c, ok := command.(*instructions.EnvCommand); ok {
			lex := shell.NewLex(tree.EscapeToken)
			if err := c.Expand(func(word string) (string, error) {
				out, _, err := lex.ProcessWord(word, shell.EnvsFromSlice(nil))
				return out, err
			}); err != nil {
				t.Fatal(err)
			}
			for _, v := range c.Env {
				env[v.Key] = v.Value
			}
		}
	}
	return env
}

// named lists values by name: name, value, …
func named(pairs ...string) []step.NameValue {
	var all []step.NameValue
	for pair := range slices.Chunk(pairs, 2) {
		all = append(all, step.NameValue{Name: pair[0], Value: pair[1]})
	}
	return all
}
