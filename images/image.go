package main

import (
	"fmt"
	"runtime"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// An image lists the content of a step's image, but for the parts that all have: the step, CA certificates, a user
// and /tmp.
type image struct {
	step         string
	capabilities []int // file capabilities of the step's binary: unix.CAP_…
	runc         bool  // whether there is a runc
	git          bool  // whether there is the program of checkout-source, for repositories that a Dockerfile adds
	limit        int64 // bytes it may have compressed, for one platform

	// module is the folder of the module that the program is, where it is no step of this one.
	module string
}

const megabyte = 1_000_000

var images = []image{
	{step: "checkout-source", limit: 8 * megabyte},
	{
		step: "containerfile-build",
		// With them it gives its user namespace more than one user. The pod has to have them, too.
		capabilities: []int{unix.CAP_SETUID, unix.CAP_SETGID},
		runc:         true,
		git:          true,
		limit:        24 * megabyte,
	},
	// Its binary runs in builders' images, where an init container of this one puts it.
	{step: "buildpacks-build", limit: 8 * megabyte},
	// As it does in images of the platform's checks.
	{step: "scan-gate", limit: 8 * megabyte},
	{step: "publish-image", limit: 8 * megabyte},
	{step: "commit-status", limit: 8 * megabyte},
	{step: "generate-workload-cr", limit: 8 * megabyte},
}

// scanner is the image of the scanner that lists what is in images of Dockerfiles. It is no step, and takes minutes to
// compile, so that it is made when it is named.
var scanner = image{step: "sbom-scanner", module: "images/sbom-scanner", limit: 32 * megabyte}

// gitStep is the step that fetches repositories.
const gitStep = "checkout-source"

// architectures are the processor architectures that images are made for.
var architectures = []string{"amd64", "arm64"}

// imagesOf returns the images with these names; without names, the images of all steps.
func imagesOf(steps []string) ([]image, error) {
	if len(steps) == 0 {
		return images, nil
	}
	var chosen []image
	all := append(slices.Clone(images), scanner)
	for _, step := range steps {
		i := slices.IndexFunc(all, func(img image) bool { return img.step == step })
		if i < 0 {
			return nil, fmt.Errorf("no image is called %q", step)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// user is who the steps run as: the templates' runAsUser, and the owner of nothing in the image.
const user = 1000

const (
	binDir       = "usr/local/bin"
	certificates = "etc/ssl/certs/ca-certificates.crt" // where Go looks first
)

// systemFiles is what every image starts with. It is the same for all steps and platforms, so that registries and nodes
// have it once.
func systemFiles(bundle []byte) []file {
	return []file{
		folder("etc", 0o755),
		text("etc/group", fmt.Sprintf("root:x:0:\nstepwright:x:%d:\n", user)),
		text(
			"etc/passwd",
			fmt.Sprintf(
				"root:x:0:0:root:/nonexistent:/nonexistent\nstepwright:x:%d:%d:stepwright:/nonexistent:/nonexistent\n",
				user, user,
			),
		),
		folder("etc/ssl", 0o755),
		folder("etc/ssl/certs", 0o755),
		{name: certificates, mode: 0o644, content: bundle},
		folder("tmp", 0o1777),
	}
}

// program is a file in binDir, with the folders it is in.
func program(name string, content []byte, capabilities []int) []file {
	return []file{
		folder("usr", 0o755),
		folder("usr/local", 0o755),
		folder(binDir, 0o755),
		{name: binDir + "/" + name, mode: 0o755, content: content, capabilities: capabilities},
	}
}

// config is how the image's container runs.
func (i image) config(labels map[string]string) v1.Config {
	return v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Env:        []string{"PATH=/" + binDir},
		Entrypoint: []string{"/" + binDir + "/" + i.step},
		Labels:     labels,
	}
}

// native tells whether programs for the architecture run here.
func native(architecture string) bool { return architecture == runtime.GOARCH }
