package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
)

// BenchmarkBuild compares the build of an example's Dockerfile from nothing with that of older versions.
func BenchmarkBuild(b *testing.B) {
	all := versions(b, "steps/checkout-source", "steps/containerfile-build")
	standIns, err := mirror.Start(mirror.Options{Dir: filepath.Join(b.TempDir(), "mirror")})
	if err != nil {
		b.Fatal(err)
	}
	defer standIns.Close()
	if err := standIns.MakeBaseImages(b.Context()); err != nil {
		b.Fatal(err)
	}
	root := b.TempDir()
	repo := filepath.Join(root, "greeting.git")
	if _, err := devgit.Import(
		b.Context(), "../../examples/greeting-service", repo, "example", time.Unix(1_700_000_000, 0),
	); err != nil {
		b.Fatal(err)
	}
	url, err := devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	at := standIns.Address()
	mirrors := fmt.Sprintf(
		`[{"registry": "docker.io", "mirror": %q}, {"registry": "gcr.io", "mirror": %q}]`, at, at,
	)
	var cold []contender
	for _, version := range all {
		cold = append(cold, contender{version.name, func(b *testing.B) ([]*exec.Cmd, func()) {
			dir, err := os.MkdirTemp(root, "workspace-")
			if err != nil {
				b.Fatal(err)
			}
			checkout := exec.Command(
				filepath.Join(version.dir, "checkout-source"), "--git-repo="+url+"/greeting.git", "--branch=main",
				"--workspace="+dir, "--results-dir="+filepath.Join(dir, "results"),
			)
			checkout.Env = append(os.Environ(), devgit.Hermetic()...)
			if out, err := checkout.CombinedOutput(); err != nil {
				b.Fatalf("%s: %v: %s", version.name, err, out)
			}
			return []*exec.Cmd{exec.Command(
				filepath.Join(version.dir, "containerfile-build"), "--workspace="+dir,
				"--results-dir="+filepath.Join(dir, "results"), "--buildkit-root="+filepath.Join(dir, "buildkit"),
				"--registry-mirrors="+mirrors, "--insecure-registries="+fmt.Sprintf("[%q]", at),
			)}, func() { os.RemoveAll(dir) }
		}})
	}
	b.Run("cold", func(b *testing.B) { contest{cold, nil}.run(b) })
}
