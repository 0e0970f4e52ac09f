package dockerfile

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ocilayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// apps are a program of Go's for each architecture, which prints its architecture.
var apps = sync.OnceValues(func() (map[string]string, error) {
	dir := filepath.Join(scratch, "apps")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	source := "package main\n\nimport \"runtime\"\n\nfunc main() { print(runtime.GOARCH) }\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, arch := range []string{"amd64", "arm64"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", arch, "main.go")
		build.Dir = dir
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-mod=mod")
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out)
		}
		raw, err := os.ReadFile(filepath.Join(dir, arch))
		if err != nil {
			return nil, err
		}
		all[arch] = string(raw)
	}
	return all, nil
})

// crossCompiled is a project that is built for whatever platform without emulation, upon a base image. Its programs
// stand for what a compiler makes.
func crossCompiled(t testing.TB, base string) map[string]string {
	t.Helper()
	programs := must(apps())
	return map[string]string{
		"line": "one", "app-amd64": programs["amd64"], "app-arm64": programs["arm64"],
		"Dockerfile": `FROM --platform=$BUILDPLATFORM busybox:1 AS build
RUN seq 1 100000 > /dependencies && echo ran-dependencies
ARG TARGETOS TARGETARCH
COPY app-* /src/
RUN cat /src/app-$TARGETARCH > /app && echo $TARGETOS > /os && echo ran-made
FROM ` + base + `
COPY line /line
COPY --from=build --chmod=755 /app /app
COPY --from=build /os /os
`,
	}
}

// pushBoth gives a registry a base image for two platforms. That for amd64 is busybox, the other one has one file.
func pushBoth(t testing.TB, r *registrytest.Registry, reference string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "arch", Mode: 0o644, Size: 5}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "arm64")
	w.Close()
	l := must(tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	}))
	arm64 := forPlatform(must(mutate.AppendLayers(empty.Image, l)), "arm64")
	pushIndex(t, r, reference, map[string]v1.Image{"amd64": must(busybox()), "arm64": arm64})
}

// forPlatform is an image that says that it is for another architecture.
func forPlatform(image v1.Image, architecture string) v1.Image {
	config := must(image.ConfigFile()).DeepCopy()
	config.OS, config.Architecture = "linux", architecture
	return must(mutate.ConfigFile(image, config))
}

func pushIndex(t testing.TB, r *registrytest.Registry, reference string, images map[string]v1.Image) {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range slices.Sorted(maps.Keys(images)) {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        images[arch],
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	r.Push(t, reference, index)
}

// member is the image of an index for one platform.
type member struct {
	config     *v1.ConfigFile
	files      map[string]string // content of regular files by path
	statements []map[string]any  // in-toto statements about it
}

// openIndex reads the index in the workspace, which must be complete and hold nothing else. It returns its images by
// their platforms, and these in the index's order.
func openIndex(t testing.TB, w workspace.Workspace) (members map[string]member, order []string) {
	t.Helper()
	top := must(must(ocilayout.FromPath(w.Image())).ImageIndex())
	roots := must(top.IndexManifest()).Manifests
	if len(roots) != 1 || !roots[0].MediaType.IsIndex() {
		t.Fatalf("the layout's roots are %v", roots)
	}
	needed := map[string]bool{roots[0].Digest.Hex: true}
	index := must(top.ImageIndex(roots[0].Digest))
	members = map[string]member{}
	of := map[string]string{} // digest to platform
	for _, d := range must(index.IndexManifest()).Manifests {
		needed[d.Digest.Hex] = true
		image := must(index.Image(d.Digest))
		manifest := must(image.Manifest())
		needed[manifest.Config.Digest.Hex] = true
		for _, l := range manifest.Layers {
			needed[l.Digest.Hex] = true
		}
		if d.Annotations[imagelayout.ReferenceType] == imagelayout.AttestationManifest {
			platform := of[d.Annotations[imagelayout.ReferenceDigest]]
			m, ok := members[platform]
			if !ok {
				t.Fatalf("attestations of %s, which is no image before", d.Annotations[imagelayout.ReferenceDigest])
			}
			for _, l := range manifest.Layers {
				var statement map[string]any
				raw := must(os.ReadFile(filepath.Join(w.Image(), "blobs", "sha256", l.Digest.Hex)))
				if err := json.Unmarshal(raw, &statement); err != nil {
					t.Fatal(err)
				}
				subject := statement["subject"].([]any)[0].(map[string]any)
				want := strings.TrimPrefix(d.Annotations[imagelayout.ReferenceDigest], "sha256:")
				if got := child(subject, "digest")["sha256"]; got != want {
					t.Errorf("%s: a statement is about %v", platform, got)
				}
				m.statements = append(m.statements, statement)
			}
			members[platform] = m
			continue
		}
		name := d.Platform.String()
		order, of[d.Digest.String()] = append(order, name), name
		m := member{config: must(image.ConfigFile()), files: map[string]string{}}
		content := mutate.Extract(image)
		for r := tar.NewReader(content); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeReg {
				m.files[filepath.Clean(h.Name)] = string(must(io.ReadAll(r)))
			}
		}
		content.Close()
		if got := m.config.OS + "/" + m.config.Architecture; got != name {
			t.Errorf("the image for %s says that it is for %s", name, got)
		}
		members[name] = m
	}
	var blobs []string
	for _, e := range must(os.ReadDir(filepath.Join(w.Image(), "blobs", "sha256"))) {
		blobs = append(blobs, e.Name())
	}
	if want := slices.Sorted(maps.Keys(needed)); !slices.Equal(blobs, want) {
		t.Errorf("blobs are %v, those that the index needs are %v", blobs, want)
	}
	return members, order
}

// machineOf is the architecture of a program's file.
func machineOf(t testing.TB, program string) elf.Machine {
	t.Helper()
	f, err := elf.NewFile(strings.NewReader(program))
	if err != nil {
		t.Fatalf("%v of %d bytes", err, len(program))
	}
	return f.Machine
}

// both are the platforms of these tests, and the machines of their programs.
var (
	both     = []string{"linux/amd64", "linux/arm64"}
	machines = map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}
)

// checkBoth wants an image for each platform, with the program of its architecture and the file of its base image.
func checkBoth(t testing.TB, w workspace.Workspace) {
	t.Helper()
	members, order := openIndex(t, w)
	if !slices.Equal(order, both) {
		t.Errorf("platforms %v, want %v", order, both)
	}
	for name, m := range members {
		if got := machineOf(t, m.files["app"]); got != machines[name] {
			t.Errorf("%s: the program is for %s", name, got)
		}
		if m.files["os"] != "linux\n" {
			t.Errorf("%s: TARGETOS is %q", name, m.files["os"])
		}
		if arch, is := m.files["arch"]; is != (name == "linux/arm64") || is && arch != "arm64" {
			t.Errorf("%s: it is made upon the wrong base image", name)
		}
		if len(m.statements) != 1 {
			t.Errorf("%s has %d attestations", name, len(m.statements))
		}
	}
}

// TestPlatforms wants an index with an image for each platform, and its attestations: the same one whenever it is
// built.
func TestPlatforms(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	pushBoth(t, r, "team/base:1")
	build := func(t testing.TB, change func(*Parameters)) Parameters {
		t.Helper()
		in := parameters(project(t, crossCompiled(t, "team/base:1")), r)
		in.Platforms = both
		if change != nil {
			change(&in)
		}
		return in
	}
	digest := func(t testing.TB, in Parameters) string {
		t.Helper()
		end := run(t, t.Context(), in)
		if end.err != nil {
			t.Fatalf("%v\n%s", end.err, end.output)
		}
		return end.results["image-digest"]
	}
	first := build(t, nil)
	cold := digest(t, first)
	checkBoth(t, first.Workspace)

	t.Run("its program for another machine runs", func(t *testing.T) {
		emulator, err := exec.LookPath("qemu-aarch64")
		if err != nil {
			t.Skip("there is no qemu-aarch64: apt install --no-install-recommends qemu-user")
		}
		members, _ := openIndex(t, first.Workspace)
		app := filepath.Join(t.TempDir(), "app")
		if err := os.WriteFile(app, []byte(members["linux/arm64"].files["app"]), 0o755); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(emulator, app).CombinedOutput(); err != nil || string(out) != "arm64" {
			t.Errorf("%v: it says %q", err, out)
		}
	})
	t.Run("again", func(t *testing.T) {
		t.Parallel()
		if got := digest(t, build(t, nil)); got != cold {
			t.Errorf("digest %s, want %s", got, cold)
		}
	})
	t.Run("in a state that is kept", func(t *testing.T) {
		t.Parallel()
		state := t.TempDir()
		for range 2 {
			in := build(t, func(in *Parameters) { in.BuildKitRoot = state })
			if got := digest(t, in); got != cold {
				t.Errorf("digest %s, want %s", got, cold)
			}
		}
		alone := func(platform string) string {
			return digest(t, build(t, func(in *Parameters) {
				in.BuildKitRoot, in.Platforms = state, []string{platform}
			}))
		}
		fresh := digest(t, build(t, func(in *Parameters) { in.Platforms = both[1:] }))
		if got := alone("linux/arm64"); got != fresh {
			t.Errorf("alone, the image for arm64 is %s, want %s", got, fresh)
		}
	})
	t.Run("names of one platform", func(t *testing.T) {
		t.Parallel()
		in := build(t, func(in *Parameters) {
			in.Platforms = []string{"linux/amd64", "linux/arm64/v8", "linux/arm64", "linux/x86_64"}
		})
		digest(t, in)
		checkBoth(t, in.Workspace)
	})
	t.Run("the order that is asked for", func(t *testing.T) {
		t.Parallel()
		in := build(t, func(in *Parameters) { in.Platforms = []string{both[1], both[0]} })
		digest(t, in)
		if _, order := openIndex(t, in.Workspace); !slices.Equal(order, in.Platforms) {
			t.Errorf("platforms %v", order)
		}
	})
	t.Run("one", func(t *testing.T) {
		t.Parallel()
		in := build(t, func(in *Parameters) { in.Platforms = both[1:] })
		if b := succeed(t, in); b.config.Architecture != "arm64" || machineOf(t, b.files["app"]) != elf.EM_AARCH64 {
			t.Errorf("it is for %s", b.config.Architecture)
		}
	})
	t.Run("rather than platform", func(t *testing.T) {
		t.Parallel()
		in := build(t, func(in *Parameters) { in.Platform = "linux/s390x" })
		if got := digest(t, in); got != cold {
			t.Errorf("digest %s, want %s", got, cold)
		}
	})
	for _, mode := range []string{"none", "max"} {
		t.Run("provenance "+mode, func(t *testing.T) {
			t.Parallel()
			var before string
			for range 2 {
				in := build(t, func(in *Parameters) { in.Provenance = mode })
				got := digest(t, in)
				members, _ := openIndex(t, in.Workspace)
				for name, m := range members {
					if (len(m.statements) == 0) != (mode == "none") {
						t.Errorf("%s has %d attestations", name, len(m.statements))
					}
				}
				if len(members) != 2 || before != "" && got != before {
					t.Errorf("%d images, digest %s, before %s", len(members), got, before)
				}
				before = got
			}
		})
	}
	scanner := pushScanner(t, r)
	for sbom, statements := range map[string]int{"final": 2, "all": 3} { // all: of the stage build, too
		t.Run("SBOM "+sbom, func(t *testing.T) {
			t.Parallel()
			var before string
			for range 2 {
				in := build(t, func(in *Parameters) { in.SBOM, in.SBOMScanner = sbom, scanner })
				got := digest(t, in)
				members, _ := openIndex(t, in.Workspace)
				for name, m := range members {
					if len(m.statements) != statements {
						t.Errorf("%s has %d attestations, want %d", name, len(m.statements), statements)
					}
				}
				if before != "" && got != before {
					t.Errorf("digest %s, before %s", got, before)
				}
				before = got
			}
		})
	}
	t.Run("told by the provenance", func(t *testing.T) {
		members, _ := openIndex(t, first.Workspace)
		for name, m := range members {
			asked := child(m.statements[0], "predicate", "buildDefinition", "externalParameters", "docker")
			if got := fmt.Sprint(asked["platforms"]); got != fmt.Sprint(both) {
				t.Errorf("%s: platforms %s", name, got)
			}
		}
	})
}

// TestPlatformsOfOneLayer wants layers that images have in common to be there once, and for each.
func TestPlatformsOfOneLayer(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	files := map[string]string{"data": strings.Repeat("data ", 10000), "Dockerfile": "FROM scratch\nCOPY data /data\n"}
	in := parameters(project(t, files), r)
	in.Platforms = both
	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatalf("%v\n%s", end.err, end.output)
	}
	members, _ := openIndex(t, in.Workspace)
	for name, m := range members {
		if m.files["data"] != files["data"] {
			t.Errorf("%s lacks its file", name)
		}
	}
	if len(members) != 2 {
		t.Errorf("%d images", len(members))
	}
}

// TestCacheOfPlatforms wants one cache to serve all platforms.
func TestCacheOfPlatforms(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	pushBoth(t, c.Registry, "team/base:1")
	c.change = func(in *Parameters) { in.Platforms = both }
	files := crossCompiled(t, "team/base:1")
	cold := c.run(t, files)
	cold.wants(t, "", "dependencies", "made")
	again := c.run(t, files)
	again.wants(t, cold.digest)
	if again.pushed > little {
		t.Errorf("pushed %d bytes\n%s", again.pushed, again.published)
	}
	files["line"] = "two"
	changed := c.run(t, files)
	changed.wants(t, c.fresh(t, files))
	files["app-arm64"] += "\x00"
	one := c.run(t, files)
	one.wants(t, c.fresh(t, files), "made")
	index := must(c.Get(t, "team/cart:v1").ImageIndex())
	manifests := must(index.IndexManifest()).Manifests
	if len(manifests) != 4 {
		t.Errorf("the index that was published lists %d manifests", len(manifests))
	}
	for _, d := range manifests {
		if err := validate.Image(must(index.Image(d.Digest))); err != nil && d.Platform.OS != "unknown" {
			t.Errorf("%s: %v", d.Platform, err)
		}
	}
}

// fresh is the digest of the component's image where there is no cache.
func (c *component) fresh(t testing.TB, files map[string]string) string {
	t.Helper()
	change := c.change
	defer func() { c.change = change }()
	c.change = func(in *Parameters) {
		change(in)
		in.Registry = ""
	}
	return c.build(t, files).digest
}

// TestCacheMountsOfPlatforms wants a mount to be each platform's own where its id says so, and else to be shared.
func TestCacheMountsOfPlatforms(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.change = func(in *Parameters) { in.Platforms = both }
	files := map[string]string{"line": "one", "Dockerfile": `FROM --platform=$BUILDPLATFORM busybox:1 AS build
ARG TARGETARCH
COPY line /line
RUN --mount=type=cache,id=own-$TARGETARCH,target=/own --mount=type=cache,target=/shared,sharing=locked \
    cat /own/* > /before; echo $TARGETARCH > /own/a; touch /shared/$TARGETARCH; ls /shared > /all
FROM scratch
COPY --from=build /before /all /
`}
	c.run(t, files)
	files["line"] = "two"
	second := c.run(t, files)
	members, _ := openIndex(t, second.in.Workspace)
	for name, m := range members {
		if got, want := m.files["before"], strings.TrimPrefix(name, "linux/")+"\n"; got != want {
			t.Errorf("%s: its own mount had %q", name, got)
		}
		if got := m.files["all"]; got != "amd64\narm64\n" {
			t.Errorf("%s: the shared mount had %q", name, got)
		}
	}
}

// TestPlatformsThatCannotBe wants to be told before the build what it cannot do, and all of it.
func TestPlatformsThatCannotBe(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	pushBoth(t, r, "team/base:1")
	pushIndex(t, r, "team/only:1", map[string]v1.Image{"amd64": must(busybox())})
	r.Push(t, "team/mislabelled:1", forPlatform(must(busybox()), "arm64"))
	const cross = "FROM --platform=$BUILDPLATFORM busybox:1 AS build\nRUN true\n"
	for name, test := range map[string]struct {
		dockerfile string
		target     string
		platforms  []string
		reason     outcome.Reason // empty: it is built
		words      []string
		hint       string
	}{
		"a RUN for another platform": {
			dockerfile: cross + "FROM team/base:1\nRUN echo \\\n  hello\n", reason: outcome.EmulationUnavailable,
			words: []string{"line 4: RUN echo \\ hello: needs linux/arm64"}, hint: "FROM --platform=$BUILDPLATFORM",
		},
		"several": {
			dockerfile: "FROM team/base:1 AS a\nRUN true\nFROM a\nRUN false\n", reason: outcome.EmulationUnavailable,
			words: []string{"line 2: RUN true: needs linux/arm64", "line 4: RUN false: needs linux/arm64"},
		},
		"a RUN of a stage for one platform": {
			dockerfile: "FROM team/base:1 AS base-arm64\nRUN true\nFROM team/base:1 AS base-amd64\nRUN true\n" +
				"FROM base-$TARGETARCH\n",
			reason: outcome.EmulationUnavailable, words: []string{"line 2: RUN true: needs linux/arm64"},
		},
		"a RUN that a stage inherits": {
			dockerfile: "FROM team/base:1 AS a\nONBUILD RUN true\nFROM a\n", reason: outcome.EmulationUnavailable,
			words: []string{"line 3: FROM a: needs linux/arm64"},
		},
		"a platform of FROM": {
			dockerfile: "FROM --platform=linux/arm64 team/base:1\nRUN true\n", platforms: []string{},
			reason: outcome.EmulationUnavailable, words: []string{"line 2: RUN true: needs linux/arm64"},
		},
		"base images that lack a platform, and RUNs": {
			dockerfile: "FROM team/only:1 AS a\nFROM team/only:1 AS b\nFROM team/base:1\nRUN true\n" +
				"COPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\nCOPY --from=team/only:1 /etc/passwd /c\n",
			reason: outcome.BaseImageUnavailable,
			words: []string{
				"line 1: team/only:1 is not there for linux/arm64", "line 2: team/only:1 is not there for linux/arm64",
				"line 7: team/only:1 is not there for linux/arm64", "line 4: RUN true: needs linux/arm64",
			},
			hint: "FROM --platform=$BUILDPLATFORM",
		},
		"an image of one platform": {
			dockerfile: "FROM busybox:1\nCOPY Dockerfile /\n", reason: outcome.BaseImageUnavailable,
			words: []string{"line 1: busybox:1 is for linux/amd64 only, and not for linux/arm64"},
		},
		"an image of one platform to copy from": {
			dockerfile: "FROM busybox:1 AS a\nFROM scratch\nCOPY --from=a /etc/passwd /\n",
		},
		"a RUN in an image of one platform": {
			dockerfile: "FROM busybox:1 AS a\nRUN true\nFROM scratch\nCOPY --from=a /etc/passwd /\n",
		},
		"a RUN of a stage that is not built": {
			dockerfile: "FROM team/base:1 AS a\nRUN true\nFROM team/base:1\nCOPY Dockerfile /\n",
		},
		"a RUN of a target": {
			dockerfile: "FROM scratch AS a\nCOPY Dockerfile /\nFROM team/base:1\nRUN true\n", target: "a",
		},
		"a RUN for a platform that the machine runs": {
			dockerfile: "FROM busybox:1\nRUN true\n", platforms: []string{"linux/amd64"},
		},
		"a platform that is none": {
			dockerfile: "FROM scratch\n", platforms: []string{"linux/amd64", "a//b"}, reason: outcome.InvalidParameters,
			words: []string{"platforms[1]: "},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": test.dockerfile}), r)
			in.Platforms, in.Target = both, test.target
			if test.platforms != nil {
				in.Platforms = test.platforms
			}
			if test.reason == "" {
				if end := run(t, t.Context(), in); end.err != nil {
					t.Errorf("%v\n%s", end.err, end.output)
				}
				return
			}
			end := fail(t, in, test.reason, test.words...)
			failure := outcome.Of(end.err)
			if hint := failure.Hint + failure.Reason.Hint(); !strings.Contains(hint, test.hint) {
				t.Errorf("the hint is %q", hint)
			}
			if strings.Contains(end.output, "\n#1 ") {
				t.Errorf("it began to build\n%s", end.output)
			}
		})
	}
}

// emulator is a static program that stands for an emulator: it leaves the names of what it is to run in a file.
var emulator = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "emulator")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	source := "package main\n\nimport (\n\t\"os\"\n\t\"strings\"\n)\n\nfunc main() {\n" +
		"\tos.WriteFile(\"/emulated\", []byte(strings.Join(os.Args[1:], \" \")), 0o644)\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644); err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", "buildkit-qemu-aarch64", "main.go")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "buildkit-qemu-aarch64"), nil
})

// emulated is a project with a RUN for arm64.
func emulated(t testing.TB) map[string]string {
	return map[string]string{
		"app":        must(apps())["arm64"],
		"Dockerfile": "FROM scratch\nCOPY --chmod=755 app /app\nRUN [\"/app\", \"argument\"]\n",
	}
}

// TestEmulatorOfTheBuilder wants an emulator to be used that a builder brings, as BuildKit's own image does.
func TestEmulatorOfTheBuilder(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	in := parameters(project(t, emulated(t)), nil)
	in.Platforms = []string{"linux/arm64"}
	fail(t, in, outcome.EmulationUnavailable, "line 3: RUN")
	t.Setenv("PATH", filepath.Dir(must(emulator()))+":"+os.Getenv("PATH"))
	if b := succeed(t, in); !strings.HasSuffix(b.files["emulated"], "/app argument") {
		t.Errorf("the emulator ran %q", b.files["emulated"])
	}
}

// TestEmulationOfTheNode wants an emulator to be used that is registered with the kernel. The registration is of a user
// namespace of its own, which goes with the test.
func TestEmulationOfTheNode(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images by BuildKit")
	}
	t.Parallel()
	const magic = `\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00`
	const mask = `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
	script := `set -e
mount --make-rprivate /
mount -t proc none /proc
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
printf '%s' ':stepwright:M::` + magic + `:` + mask + `:` + must(emulator()) + `:F' \
  > /proc/sys/fs/binfmt_misc/register || exit 77
exec "$@"`
	in := parameters(project(t, emulated(t)), nil)
	args := append(arguments(t, in, t.TempDir()), `--platforms=["linux/arm64"]`)
	cmd := exec.Command("sh", append([]string{"-c", script, "sh", program(t, stepPackage)}, args...)...)
	all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("the kernel has no binfmt_misc of a user namespace's own (Linux 6.7): %s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if b := open1(t, in.Workspace); !strings.HasSuffix(b.files["emulated"], "/app argument") {
		t.Errorf("the emulator ran %q", b.files["emulated"])
	}
}

// TestNativeDaemons wants each platform to be built by its own daemons, and the images to be one index.
func TestNativeDaemons(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	pushBoth(t, r, "team/base:1")
	dir := t.TempDir()
	socket := func(name string, args ...string) string {
		address := "unix://" + filepath.Join(dir, name)
		newDaemon(t, r, "", append([]string{"--addr", address}, args...)...)
		return address
	}
	first, second := socket("first"), socket("second")
	by := func(address string, files map[string]string) Parameters {
		in := parameters(project(t, files), r)
		in.RegistryMirrors, in.CABundle = nil, ""
		in.Platforms, in.BuildKitAddress = both, address
		return in
	}
	own := parameters(project(t, crossCompiled(t, "team/base:1")), r)
	own.Platforms = both
	want := run(t, t.Context(), own)
	if want.err != nil {
		t.Fatalf("%v\n%s", want.err, want.output)
	}
	for name, address := range map[string]string{
		"one for all":          first,
		"one for each":         "linux/amd64=" + first + ",linux/arm64=" + second,
		"one for the others":   first + ", linux/arm64/v8=" + second,
		"one for one, twice":   "linux/amd64=" + first + ",linux/arm64=" + second + ",linux/arm64=" + second,
		"one for each, and no": "linux/s390x=unix:///nowhere,linux/amd64=" + first + ",linux/arm64=" + second,
	} {
		t.Run(name, func(t *testing.T) {
			for _, provenance := range []string{"min", "none"} {
				var before string
				for range 2 {
					in := by(address, crossCompiled(t, "team/base:1"))
					in.Provenance = provenance
					end := run(t, t.Context(), in)
					if end.err != nil {
						t.Fatalf("%v\n%s", end.err, end.output)
					}
					got := end.results["image-digest"]
					if provenance == "min" {
						checkBoth(t, in.Workspace)
					} else if members, order := openIndex(t, in.Workspace); len(members) != 2 ||
						!slices.Equal(order, both) {
						t.Errorf("platforms %v", order)
					}
					if before != "" && got != before {
						t.Errorf("digest %s, and then %s", before, got)
					}
					if name == "one for all" && provenance == "min" && got != want.results["image-digest"] {
						t.Errorf("digest %s, by the step's own builder %s", got, want.results["image-digest"])
					}
					if left := leftovers(t, in.Workspace); len(left) > 0 {
						t.Errorf("left behind: %v", left)
					}
					before = got
				}
			}
		})
	}
	t.Run("none for a platform", func(t *testing.T) {
		in := by("linux/amd64="+first, crossCompiled(t, "team/base:1"))
		fail(t, in, outcome.InvalidParameters, "platforms: no daemon of buildkit-address is for linux/arm64")
	})
	t.Run("no platform", func(t *testing.T) {
		in := by("linux/arm64=unix:///nowhere,linux/"+machine().Architecture+"="+first, reproducible)
		in.Platforms = nil
		succeed(t, in)
	})
	t.Run("a RUN that one cannot run", func(t *testing.T) {
		in := by("linux/amd64="+first+",linux/arm64="+second, map[string]string{
			"Dockerfile": "FROM team/base:1\nRUN true\n",
		})
		fail(t, in, outcome.EmulationUnavailable, "line 2: RUN true: needs linux/arm64")
	})
	t.Run("a failure of one", func(t *testing.T) {
		in := by("linux/amd64="+first+",linux/arm64="+second, map[string]string{
			"Dockerfile": "FROM --platform=$BUILDPLATFORM busybox:1\nARG TARGETARCH\n" +
				"RUN echo here; test $TARGETARCH = amd64 || { sleep 3; exit 3; }\n",
		})
		end := fail(t, in, outcome.BuildFailed, "line 3: RUN echo here", "exit code 3")
		for _, platform := range both {
			if !strings.Contains(end.output, "["+platform+"] #") {
				t.Errorf("the log does not tell what %s does\n%s", platform, end.output)
			}
		}
	})
}
