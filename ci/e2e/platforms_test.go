//go:build e2e

package main

import (
	"archive/tar"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"k8s.io/apimachinery/pkg/util/sets"
)

// testPlatforms builds an example in Go for two platforms in the cluster's pods, which have no emulation: its stage
// that compiles runs on the node's platform. stepwright run makes the same image.
func testPlatforms(t *testing.T) {
	t.Parallel()
	files := exampleFiles(t, "greeting-service")
	files["Dockerfile"] = strings.NewReplacer(
		"FROM golang", "FROM --platform=$BUILDPLATFORM golang",
		"ARG VERSION=dev", "ARG VERSION=dev TARGETOS TARGETARCH",
		"CGO_ENABLED=0 go build", "CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build",
		"FROM gcr.io/distroless/static-debian12:nonroot", "FROM scratch", // the stand-in is of one platform
	).Replace(files["Dockerfile"])
	serving.repository(t, "platforms.git", files)
	b := build{name: "platforms", url: "https://" + publicGit + "/platforms.git", more: object{
		"docker":    object{"platforms": []any{"linux/amd64", "linux/arm64"}},
		"buildArgs": []any{object{"name": "VERSION", "value": "1.0.0"}},
	}}
	b.succeed(t, 6*time.Minute)
	image := workload(t, b.name).Spec.Container.Image
	index := serving.index(t, image)
	found := sets.New[string]()
	attested := 0
	for _, d := range must(index.IndexManifest())(t).Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			attested++
			continue
		}
		found.Insert(d.Platform.String())
		want := map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}[d.Platform.String()]
		if got := machineOf(t, must(index.Image(d.Digest))(t), "usr/local/bin/greeting-service"); got != want {
			t.Errorf("%s: the program is for %s", d.Platform, got)
		}
	}
	if !found.Equal(sets.New("linux/amd64", "linux/arm64")) || attested != 2 {
		t.Errorf("the index has images for %v and %d manifests of attestations", sets.List(found), attested)
	}
	checkCanaries(t, b.runName())
	checkLaptop(t, b, image)
}

// exampleFiles are the files of an example.
func exampleFiles(t *testing.T, name string) map[string]string {
	t.Helper()
	files := map[string]string{}
	dir := os.DirFS(filepath.Join(*repository, "examples", name))
	for _, entry := range must(os.ReadDir(filepath.Join(*repository, "examples", name)))(t) {
		if entry.IsDir() {
			continue
		}
		f := must(dir.Open(entry.Name()))(t)
		files[entry.Name()] = string(must(io.ReadAll(f))(t))
		f.Close()
	}
	return files
}

// machineOf is the architecture of a program in an image.
func machineOf(t *testing.T, image v1.Image, path string) elf.Machine {
	t.Helper()
	content := mutate.Extract(image)
	defer content.Close()
	for r := tar.NewReader(content); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("the image has no %s: %v", path, err)
		}
		if filepath.Clean(h.Name) == path {
			program := must(elf.NewFile(strings.NewReader(string(must(io.ReadAll(r))(t)))))(t)
			return program.Machine
		}
	}
}
