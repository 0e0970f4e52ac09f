package programs

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const root = "../../.."

// The versions that this package tells are those that its modules require.
func TestVersions(t *testing.T) {
	for dependency, want := range map[string][2]string{
		"github.com/containerd/containerd/v2":          {"containerd", containerd},
		"github.com/coredns/coredns":                   {"coredns", CoreDNS},
		"sigs.k8s.io/kube-network-policies":            {"networkpolicies", policies},
		"github.com/argoproj/argo-workflows/v4":        {"argo", Argo},
		"github.com/external-secrets/external-secrets": {"externalsecrets", ExternalSecrets},

		"sigs.k8s.io/kind":                          {"kind", Kind},
		"helm.sh/helm/v3":                           {"../../release/helm", Helm},
		"github.com/cert-manager/cert-manager":      {"certmanager", CertManager},
		"github.com/rancher/local-path-provisioner": {"localpath", localPath},
	} {
		requires(t, dependency, want[0], want[1])
	}
	for _, version := range OpenChoreos {
		requires(t, "github.com/openchoreo/openchoreo", "openchoreo-"+version, "v"+version)
	}
	for _, version := range KubernetesVersions {
		// What kind installs Kubernetes by is of its version.
		for _, module := range []string{"kubernetes", "kubeadm"} {
			requiresBy(t, "k8s.io/kubernetes", module+"/"+modFile(version), version)
		}
	}
}

// requires wants a module to require a version of a dependency.
func requires(t *testing.T, dependency, module, version string) {
	t.Helper()
	requiresBy(t, dependency, module+"/go.mod", version)
}

func requiresBy(t *testing.T, dependency, file, version string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../modules", file))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)\s` + regexp.QuoteMeta(dependency) + ` (v\S+)`).FindSubmatch(content)
	if found == nil || string(found[1]) != version {
		t.Errorf("%s of %s is %q, not %s", dependency, file, found, version)
	}
}

// Tests by the libraries of Argo and OpenChoreo use the versions that the cluster runs by default.
func TestSameAsTheProject(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"github.com/argoproj/argo-workflows/v4 " + Argo, "github.com/openchoreo/openchoreo v" + OpenChoreos[0],
	} {
		if !strings.Contains(string(content), "\t"+line+"\n") {
			t.Errorf("go.mod does not require %s", line)
		}
	}
}

// A unit is built once, until its sources change.
func TestEnsure(t *testing.T) {
	source := t.TempDir()
	write := func(content string) {
		if err := os.WriteFile(filepath.Join(source, "go.mod"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	builder := Builder{Source: source, Dir: t.TempDir(), Log: t.Logf}
	made := 0
	u := unit{name: "thing", what: "a thing", inputs: []string{"go.mod"},
		make: func(_ context.Context, _ Builder, _ unit, dir string) error {
			made++
			return os.WriteFile(filepath.Join(dir, "thing"), nil, 0o644)
		}}
	var dirs []string
	ensure := func(version string, want int) {
		t.Helper()
		dir, err := builder.ensure(t.Context(), u, version)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "thing")); err != nil || made != want {
			t.Errorf("made %d times, want %d; %v", made, want, err)
		}
		dirs = append(dirs, dir)
	}
	write("a")
	ensure("go1", 1)
	ensure("go1", 1)
	write("b")
	ensure("go1", 2)
	// The first has not been asked for lately.
	yesterday := time.Now().Add(-unused - time.Minute)
	if err := os.Chtimes(dirs[0], yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	ensure("go2", 3)
	want := []string{dirs[2], dirs[3]}
	slices.Sort(want)
	kept, err := filepath.Glob(filepath.Join(builder.Dir, "*"))
	if err != nil || !slices.Equal(kept, want) {
		t.Errorf("kept %v, want %v; %v", kept, want, err)
	}
	write("c")
	u.make = func(context.Context, Builder, unit, string) error { return exec.ErrNotFound }
	if _, err := builder.ensure(t.Context(), u, "go2"); err == nil {
		t.Error("no error")
	}
	if kept, _ := os.ReadDir(builder.Dir); len(kept) != 2 {
		t.Errorf("a build that failed left %v", kept)
	}
}

// TestKeyOfUses makes a unit anew when another one that it is made of has changed.
func TestKeyOfUses(t *testing.T) {
	key := func(uses ...string) string {
		key, err := Builder{Source: t.TempDir()}.key(unit{uses: uses}, "go1")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	one := key("/programs/other-0a1b2c")
	if one == key("/programs/other-3d4e5f") || one == key() || one != key("/elsewhere/other-0a1b2c") {
		t.Error("the key of a unit does not follow those that it is made of")
	}
}

// TestImageOnABase puts files, texts and links on another image, which has a file less then, and gives it two names.
func TestImageOnABase(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("exit"), 0o755); err != nil {
		t.Fatal(err)
	}
	lower := image{ref: "localhost/lower:1", texts: map[string]string{"etc/gone": "", "etc/kept": "kept"}}
	if err := lower.write(dir); err != nil {
		t.Fatal(err)
	}
	base, err := tarball.ImageFromPath(filepath.Join(dir, "lower.tar"), nil)
	if err != nil {
		t.Fatal(err)
	}
	upper := image{
		ref: "localhost/upper:1", more: []string{"registry.example.com/other:2"}, base: base,
		files:      map[string]string{"bin/script": script},
		texts:      map[string]string{"etc/.wh.gone": "", "kind/bin/run": "exit", "empty/": ""},
		links:      map[string]string{"sbin/init": "/bin/script"},
		executable: func(name string) bool { return name == "kind/bin/run" },
	}
	if err := upper.write(dir); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"localhost/upper:1", "registry.example.com/other:2"} {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(filepath.Join(dir, "upper.tar"), &tag)
		if err != nil {
			t.Fatal(err)
		}
		flat := mutate.Extract(img)
		defer flat.Close()
		got := map[string]string{}
		for reader := tar.NewReader(flat); ; {
			header, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got[strings.Trim(header.Name, "/")] = fmt.Sprintf("%c %o %s", header.Typeflag, header.Mode, header.Linkname)
		}
		want := map[string]string{
			"tmp": "5 1777 ", "bin": "5 755 ", "bin/script": "0 755 ", "etc": "5 755 ", "etc/kept": "0 644 ",
			"kind": "5 755 ", "kind/bin": "5 755 ", "kind/bin/run": "0 755 ", "empty": "5 755 ", "sbin": "5 755 ",
			"sbin/init": "2 777 /bin/script",
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s has\n%v, want\n%v", ref, got, want)
		}
	}
}

// The image of a small program, as ctr reads it.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	builder := Builder{Source: root, Log: t.Logf}
	set := &Set{}
	all := units(set, KubernetesVersions[0], OpenChoreos[0])
	pause := all[slices.IndexFunc(all, func(u unit) bool { return u.name == "pause" })]
	if err := pause.make(t.Context(), builder, pause, dir); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(PauseImage)
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(filepath.Join(dir, "pause.tar"), &tag)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.User != "65535:65535" || !slices.Equal(config.Config.Entrypoint, []string{
		"/pause",
	}) || config.OS != "linux" {
		t.Errorf("%+v", config)
	}
}

// TestNodeImages: a node has the images that kubeadm of any version names, and the one that containerd makes pods from.
func TestNodeImages(t *testing.T) {
	kind, err := Builder{Source: root, Log: t.Logf}.moduleDir(t.Context(), modules+"kind", "sigs.k8s.io/kind")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(filepath.Join(kind, "images/base/files/etc/containerd/config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	sandbox := regexp.MustCompile(`sandbox_image = "(.+)"`).FindSubmatch(config)
	if sandbox == nil {
		t.Fatal("kind's configuration of containerd has no sandbox_image")
	}
	programs, dir := t.TempDir(), t.TempDir()
	for _, program := range []string{
		"kubernetes", "networkpolicies", "local-path-provisioner", "coredns", "pause",
	} {
		if err := os.WriteFile(filepath.Join(programs, program), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	maker := nodeMaker{
		kubernetes: "v1.36.3", bases: bases{node: empty.Image}, volumes: programs,
		set: Set{Kubernetes: programs, Policies: programs, CoreDNS: programs, Pause: programs},
	}
	names := []string{
		"registry.k8s.io/kube-apiserver:v1.36.3", "registry.k8s.io/etcd:3.6.8-0", "registry.k8s.io/pause:3.10.2",
		"registry.k8s.io/coredns/coredns:v1.14.2",
	}
	if err := maker.writeImages(dir, names); err != nil {
		t.Fatal(err)
	}
	archives := map[string]string{"registry.k8s.io/coredns/coredns:v1.14.2": "coredns.tar",
		"registry.k8s.io/pause:3.10.2": "pause.tar", string(sandbox[1]): "pause.tar"}
	for _, ref := range append(names, string(sandbox[1])) {
		tag, err := name.NewTag(ref)
		if err != nil {
			t.Fatal(err)
		}
		archive := cmp.Or(archives[ref], "kubernetes.tar")
		if _, err := tarball.ImageFromPath(filepath.Join(dir, archive), &tag); err != nil {
			t.Errorf("%s of %s: %v", ref, archive, err)
		}
	}
}

// All that OpenChoreo's versions differ in. docs/contract.md holds for each of them: neither types, definitions,
// webhooks and charts nor the controllers and the API of WorkflowRuns and Workloads are among it.
func TestOpenChoreosAreAlike(t *testing.T) {
	want := []string{
		"internal/cluster-gateway/connection_manager.go", "internal/cluster-gateway/server.go",
		"internal/openchoreo-api/api/handlers/exec.go", "internal/openchoreo-api/api/handlers/wirelogs.go",
	}
	builder := Builder{Source: root, Log: t.Logf}
	var trees []map[string][sha256.Size]byte
	for _, version := range OpenChoreos {
		dir, err := builder.moduleDir(t.Context(), modules+"openchoreo-"+version, "github.com/openchoreo/openchoreo")
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, treeOf(t, dir))
	}
	newest := trees[0]
	for i, tree := range trees[1:] {
		differ := map[string]bool{}
		for _, of := range []map[string][sha256.Size]byte{newest, tree} {
			for file := range of {
				if newest[file] != tree[file] {
					differ[file] = true
				}
			}
		}
		if got := slices.Sorted(maps.Keys(differ)); !slices.Equal(got, want) {
			t.Errorf("OpenChoreo %s differs from %s in %q, want %q", OpenChoreos[i+1], OpenChoreos[0], got, want)
		}
	}
}

// treeOf are the files that a module's programs are made of: all but tests and what people read.
func treeOf(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	files := map[string][sha256.Size]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(path, "_test.go") ||
			strings.HasSuffix(path, ".md") || path == "VERSION" {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The environment chooses the version of OpenChoreo.
func TestOpenChoreo(t *testing.T) {
	for chosen, want := range map[string]string{"": OpenChoreos[0], "1.2.0": "1.2.0", "v1.2.0": "", "1.1.0": ""} {
		t.Setenv(OpenChoreoVariable, chosen)
		got, err := OpenChoreo()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q chooses %q: %v", chosen, got, err)
		}
	}
}

// The environment chooses the version of Kubernetes by its minor one.
func TestKubernetes(t *testing.T) {
	for chosen, want := range map[string]string{
		"": KubernetesVersions[0], "1.33": "v1.33.13", "1.36": "v1.36.3", "1.36.3": "", "v1.36": "", "1.12": "",
	} {
		t.Setenv(KubernetesVariable, chosen)
		got, err := Kubernetes()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q chooses %q: %v", chosen, got, err)
		}
	}
}
