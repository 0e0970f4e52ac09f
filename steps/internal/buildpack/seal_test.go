package buildpack

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// What the user's code leaves in place of what it should leave decides neither on the image nor on where the sealing
// container reads and writes, and makes it wait for nothing.
func TestWhatABuildLeaves(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	finished := newPod(t, registry, newWorkspace(t, with("link.txt", "x")))
	built := finished.volumes(t)
	if e := finished.build(t, built); e.code != 0 {
		t.Fatalf("exit code %d\n%s", e.code, e.output)
	}
	// Each case seals a copy of it, in a workspace of its own.
	sealed := func(t *testing.T, change func(volumes)) (podEnding, string) {
		t.Helper()
		p := newPod(t, registry, newWorkspace(t, nil))
		p.mounts = map[string]string{"/etc/passwd": passwd(t)}
		all := p.volumes(t)
		for _, name := range []string{"fetched", "handover", "application", "layers"} {
			if out, err := exec.Command("cp", "-a", built[name]+"/.", all[name]).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		change(all)
		return p.seal(t, all), p.workspace
	}
	clean, _ := sealed(t, func(volumes) {})
	if clean.code != 0 {
		t.Fatalf("%+v\n%s", clean.outcome, clean.output)
	}
	digest := clean.outcome.Results["image-digest"]

	put := func(volume, path, content string) func(*testing.T, volumes) {
		return func(t *testing.T, all volumes) {
			path := place(t, filepath.Join(all[volume], path))
			if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	link := func(volume, path, target string) func(*testing.T, volumes) {
		return func(t *testing.T, all volumes) {
			if err := os.Symlink(target, place(t, filepath.Join(all[volume], path))); err != nil {
				t.Fatal(err)
			}
		}
	}
	node := func(volume, path string, mode uint32, device int) func(*testing.T, volumes) {
		return func(t *testing.T, all volumes) {
			if err := syscall.Mknod(place(t, filepath.Join(all[volume], path)), mode|0o666, device); err != nil {
				t.Fatal(err)
			}
		}
	}
	pipe := func(volume, path string) func(*testing.T, volumes) { return node(volume, path, syscall.S_IFIFO, 0) }
	const zero = 1<<8 | 5 // /dev/zero
	const cannot = "what the buildpacks left cannot be made an image: "
	const nothing = "the build left nothing that tells how it ended: "
	group := func(id string) string {
		return fmt.Sprintf("[[group]]\nid = %q\nversion = \"1.0.0\"\napi = \"0.10\"\n", id)
	}
	tests := []struct {
		name   string
		change func(*testing.T, volumes)
		want   string // of the message of a BuildFailed; empty: the image is as it would be
	}{
		{"no ending", remove("handover", "ending.json"), nothing},
		{"a pipe as ending", pipe("handover", "ending.json"), nothing},
		{"a device as ending", node("handover", "ending.json", syscall.S_IFCHR, zero), nothing},
		{"a link as ending", link("handover", "ending.json", "/etc/passwd"), nothing},
		{"a folder as ending", put("handover", "ending.json/x", ""), nothing},
		{"an ending without end", put("handover", "ending.json", strings.Repeat(" ", 1<<20)), nothing},
		{"an ending that is none", put("handover", "ending.json", `{"reason":"Fine"}`), nothing},
		{"an ending of another step", put("handover", "ending.json", `{"reason":"Forbidden","message":"x"}`),
			"the build says that it ended with Forbidden"},
		{"a message for terminals", put("handover", "ending.json",
			`{"reason":"BuildFailed","message":"a\u001b[2Jb\u202ec\rd\n::error::e"}`),
			`a\x1b[2Jb\u202ec\rd` + "\n" + `\x3a:error::e`},
		{"no transcript", remove("handover", "transcript"), ""},
		{"a pipe as transcript", pipe("handover", "transcript"), ""},
		{"a device as transcript", node("handover", "transcript", syscall.S_IFCHR, zero), ""},
		{"a link as transcript", link("handover", "transcript", "/etc/passwd"), ""},
		{"a transcript without end", put("handover", "transcript", strings.Repeat("x", 9<<20)), ""},
		{"another run image", put("layers", "analyzed.toml",
			"[run-image]\nreference = \"/layers/run\"\n[image]\nreference = \"/layers/run\"\n"), ""},
		{"a pipe as analysis", pipe("layers", "analyzed.toml"), ""},
		{"a report that leads to the image", link("layers", "report.toml", "/mnt/vol/image/index.json"), ""},
		{"a pipe as report", pipe("layers", "report.toml"), ""},
		{"a false source", put("layers", "project-metadata.toml",
			"[source]\ntype = \"git\"\n[source.version]\ncommit = \"cafe\"\n"), ""},
		{"layers of an extension", put("layers", "extended/run/sha256:x/index.json", "{}"), ""},
		{"a cache of its own", put("layers", "cache/committed/io.buildpacks.lifecycle.cache.metadata", "{}"), ""},
		{"a link as group", link("layers", "group.toml", "/etc/passwd"), cannot + "group.toml: "},
		{"a pipe as group", pipe("layers", "group.toml"), cannot + "group.toml: "},
		{"no group", remove("layers", "group.toml"), cannot + "group.toml: "},
		{"a group of nothing", put("layers", "group.toml", ""), cannot + "group.toml names no buildpack"},
		{"a buildpack of the user's", put("layers", "group.toml", group("a/b")),
			cannot + "group.toml names the buildpack a/b 1.0.0, which the builder does not have"},
		{"a buildpack that leads out", put("layers", "group.toml", group("..")),
			cannot + "group.toml names the buildpack .. 1.0.0"},
		{"a group without end", put("layers", "group.toml", strings.Repeat("#", 5<<20)), cannot + "group.toml: "},
		{"configuration that leads out", link("layers", "config", "/etc"), cannot + "config is neither"},
		{"a pipe as configuration", pipe("layers", "config/metadata.toml"), cannot + "config/metadata.toml is neither"},
		{"a link as configuration", link("layers", "config/metadata.toml", "/etc/passwd"),
			cannot + "config/metadata.toml is neither"},
		{"configuration without end", put("layers", "config/metadata.toml", strings.Repeat("#", 5<<20)),
			cannot + "config/metadata.toml is larger"},
		{"bills of materials that lead out", link("layers", "sbom", "/etc"), cannot + "sbom is neither"},
		{"a bill that leads out", link("layers", "sbom/launch/test_greeter/sbom.cdx.json", "/etc/passwd"),
			cannot + "sbom/launch/test_greeter/sbom.cdx.json is neither"},
		{"a pipe as bill", pipe("layers", "sbom/build/x.json"), cannot + "sbom/build/x.json is neither"},
		{"a bill of the lifecycle's that leads to the image",
			link("layers", "sbom/launch/buildpacksio_lifecycle", "/mnt/vol/image"),
			cannot + "sbom/launch/buildpacksio"},
		{"bills without end", many("sbom/launch"), cannot + "sbom/launch has more than 10000 entries"},
		{"bills in bills", put("layers", "sbom/launch/"+strings.Repeat("a/", 20)+"b", ""),
			"nested more than 16 deep"},
		{"a name for terminals", link("layers", "sbom/launch/a\x1b[2Jb", "/etc/passwd"),
			`sbom/launch/a\x1b[2Jb is neither`},
		{"layers that lead out", link("layers", "test_greeter", "/etc"), cannot + "test_greeter is not a folder"},
		{"a pipe as layer's descriptor", pipe("layers", "test_dependencies/modules.toml"),
			cannot + "test_dependencies/modules.toml is not a file"},
		{"a link as layer's digest", link("layers", "test_dependencies/modules.sha", "/etc/passwd"),
			cannot + "test_dependencies/modules.sha is not a file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			e, workspace := sealed(t, func(all volumes) { test.change(t, all) })
			left, err := os.ReadDir(filepath.Join(workspace, "image"))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(e.output, canary) || find(t, workspace, canary) {
				t.Error("a file of the container got out")
			}
			if test.want == "" {
				if got := e.outcome.Results["image-digest"]; e.code != 0 || got != digest {
					t.Errorf("exit code %d, %s, want %s\n%s", e.code, got, digest, e.output)
				}
				return
			}
			if e.outcome.Reason != outcome.BuildFailed || !strings.Contains(e.outcome.Message, test.want) {
				t.Errorf("%s: %s\nwant %q", e.outcome.Reason, e.outcome.Message, test.want)
			}
			if len(left) > 0 {
				t.Errorf("it leaves %v", left)
			}
		})
	}
	t.Run("a transcript for terminals", func(t *testing.T) {
		t.Parallel()
		e, _ := sealed(t, func(all volumes) {
			put("handover", "transcript", "a\x1b[2Jb\r\n\x1b[32mgreen\x1b[0m\n::error::c\n\u202ed\nno end")(t, all)
		})
		for _, line := range []string{`a\x1b[2Jb`, "green", `\x3a:error::c`, `\u202ed`, "no end"} {
			if want := "\n" + replay.Mark(replay.Build, line) + "\n"; !strings.Contains("\n"+e.output, want) {
				t.Errorf("%q is missing in\n%s", want, e.output)
			}
		}
	})
	t.Run("layers and application with anything", func(t *testing.T) {
		t.Parallel()
		e, dir := sealed(t, func(all volumes) {
			link("layers", "test_dependencies/modules/passwd", "/etc/passwd")(t, all)
			pipe("layers", "test_dependencies/modules/pipe")(t, all)
			link("application", "passwd", "/etc/passwd")(t, all)
			pipe("application", "pipe")(t, all)
		})
		if e.code != 0 {
			t.Errorf("%+v\n%s", e.outcome, e.output)
		}
		if find(t, dir, canary) {
			t.Error("a link is followed")
		}
	})
}

// A buildpack may put labels on the image, but not those that tell whose it is and what it was made of.
func TestLabelsOfABuildpack(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	p := newPod(t, registry, newWorkspace(t, greeter), "NAMESPACE_NAME", "acme", "PROJECT_NAME", "shop",
		"COMPONENT_NAME", "greeter")
	all := p.volumes(t)
	if e := p.build(t, all); e.code != 0 {
		t.Fatal(e.output)
	}
	file, err := os.OpenFile(filepath.Join(all["layers"], "config/metadata.toml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dev.stepwright.owner", "org.opencontainers.image.revision", projectLabel, "mine"} {
		fmt.Fprintf(file, "[[labels]]\nkey = %q\nvalue = \"forged\"\n", name)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if e := p.seal(t, all); e.code != 0 {
		t.Fatalf("%+v\n%s", e.outcome, e.output)
	}
	labels := labels(t, filepath.Join(p.workspace, "image"))
	for name, want := range map[string]string{
		"dev.stepwright.owner":              "acme/shop/greeter",
		"org.opencontainers.image.revision": strings.Repeat("ab", 20), "mine": "forged",
		projectLabel: `{"source":{"metadata":{"repository":"https://git.example.com/acme/greeter.git","revision":"` +
			strings.Repeat("ab", 20) + `"},"type":"git","version":{"commit":"` + strings.Repeat("ab", 20) + `"}}}`,
	} {
		if labels[name] != want {
			t.Errorf("label %s is %q, want %q", name, labels[name], want)
		}
	}
	if got := labelsOfCache(t, p.workspace)["dev.stepwright.owner"]; got != "acme/shop/greeter" {
		t.Errorf("the cache's owner is %q", got)
	}
}

// A cache is taken by its owner only.
func TestCachesOfOthers(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	as := func(namespace, project, component string) podEnding {
		t.Helper()
		p := newPod(t, registry, newWorkspace(t, greeter), "NAMESPACE_NAME", namespace, "PROJECT_NAME", project,
			"COMPONENT_NAME", component)
		e := builds(t, p)
		publish(t, registry, p.workspace, e)
		return e
	}
	taken := regexp.MustCompile(`Took the cache|Building without the cache|There is no cache yet`)
	as("", "", "") // which leaves one without an owner
	for _, step := range []struct {
		owner [3]string
		want  string
	}{
		{[3]string{"acme", "shop", "greeter"}, "Building without the cache"},
		{[3]string{"acme", "shop", "greeter"}, "Took the cache"},
		{[3]string{"acme", "shop-greeter", ""}, "Building without the cache"},
		{[3]string{"acme-shop", "x", "greeter"}, "Building without the cache"},
	} {
		if got := taken.FindString(as(step.owner[0], step.owner[1], step.owner[2]).output); got != step.want {
			t.Errorf("%q: %q, want %q", step.owner, got, step.want)
		}
	}
}

// A source that is not what was checked out is not built.
func TestSourceDigest(t *testing.T) {
	t.Parallel()
	registry, _ := newRegistry(t)
	dir := newWorkspace(t, greeter)
	p := newPod(t, registry, dir, "SOURCE_DIGEST", "sha256:"+strings.Repeat("0", 64))
	if e := p.run(t); e.outcome.Reason != outcome.SourceChanged {
		t.Errorf("%+v", e.outcome)
	}
}

const canary = "canary-7c1f2b"

// passwd is a file of the sealing container whose content must not get out.
func passwd(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte("cnb:x:1001:1000:"+canary+":/home/cnb:/bin/false\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for dir := filepath.Dir(path); dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// place makes room for something at a path, by the builder's user.
func place(t *testing.T, path string) string {
	t.Helper()
	dir := filepath.Dir(path)
	if info, err := os.Lstat(dir); err == nil && !info.IsDir() {
		place(t, dir)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return path
}

func remove(volume, path string) func(*testing.T, volumes) {
	return func(t *testing.T, all volumes) {
		t.Helper()
		place(t, filepath.Join(all[volume], path))
	}
}

// many makes more bills of materials than there may be.
func many(dir string) func(*testing.T, volumes) {
	return func(t *testing.T, all volumes) {
		t.Helper()
		dir := filepath.Join(all["layers"], dir)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		for i := range sbomFiles + 1 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// find tells whether a text is in a file of the workspace, or in the name of one.
func find(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		found = found || bytes.Contains(raw, []byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// configOf is the configuration of the one image in a layout.
func configOf(t *testing.T, layout string) v1.Config {
	t.Helper()
	dir := imagelayout.Dir(layout)
	var index v1.IndexManifest
	var manifest v1.Manifest
	var config v1.ConfigFile
	err := dir.ReadIndex(&index)
	if err == nil && index.Manifests[0].MediaType.IsIndex() { // of the image and its attestations
		err = dir.ReadJSON(index.Manifests[0].Digest, &index)
	}
	if err == nil {
		err = dir.ReadJSON(index.Manifests[0].Digest, &manifest)
	}
	if err == nil {
		err = dir.ReadJSON(manifest.Config.Digest, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	return config.Config
}

// labels are the labels of the one image in a layout.
func labels(t *testing.T, layout string) map[string]string {
	t.Helper()
	return configOf(t, layout).Labels
}

func labelsOfCache(t *testing.T, workspace string) map[string]string {
	t.Helper()
	return labels(t, filepath.Join(workspace, "cache"))
}
