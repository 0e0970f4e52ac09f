package programs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

const root = "../../.."

// The versions that this package tells are those that its modules require.
func TestVersions(t *testing.T) {
	for dependency, want := range map[string][2]string{
		"k8s.io/kubernetes":                     {"kubernetes", Kubernetes},
		"github.com/containerd/containerd/v2":   {"containerd", containerd},
		"github.com/coredns/coredns":            {"coredns", CoreDNS},
		"sigs.k8s.io/kube-network-policies":     {"networkpolicies", policies},
		"github.com/argoproj/argo-workflows/v4": {"argo", Argo},
		"github.com/openchoreo/openchoreo":      {"openchoreo", OpenChoreo},
	} {
		content, err := os.ReadFile(filepath.Join("../modules", want[0], "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?m)\s` + regexp.QuoteMeta(dependency) + ` (v\S+)`).FindSubmatch(content)
		if found == nil || string(found[1]) != want[1] {
			t.Errorf("%s of %s/go.mod is %q, not %s", dependency, want[0], found, want[1])
		}
	}
}

// Tests by Argo's libraries use the version of Argo that the cluster runs.
func TestSameAsTheProject(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"github.com/argoproj/argo-workflows/v4 " + Argo, "github.com/openchoreo/openchoreo " + OpenChoreo,
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

// The image of a small program, as ctr reads it.
func TestImage(t *testing.T) {
	dir := t.TempDir()
	builder := Builder{Source: root, Log: t.Logf}
	set := &Set{}
	all := units(set)
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
