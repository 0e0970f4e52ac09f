// Package bench measures the steps against the tools they replace.
package bench

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// BenchmarkCheckout compares checkout-source with git clone --depth 1 on a repository of 20,000 files. Besides the time
// it reports the peak of the process's memory.
func BenchmarkCheckout(b *testing.B) {
	source, root, bin := b.TempDir(), b.TempDir(), filepath.Join(b.TempDir(), "checkout-source")
	manyFiles(b, source, 20_000)
	repo := filepath.Join(root, "big.git")
	if _, err := devgit.Import(b.Context(), source, repo, "many files", time.Unix(1_700_000_000, 0)); err != nil {
		b.Fatal(err)
	}
	if _, err := devgit.Git(b.Context(), repo, nil, nil, "gc", "--quiet"); err != nil {
		b.Fatal(err)
	}
	url, err := devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	build := exec.Command(
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin,
		"github.com/stepwright/stepwright/steps/checkout-source",
	)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for name, command := range map[string]func(dir string) *exec.Cmd{
		"git": func(dir string) *exec.Cmd {
			return exec.Command("git", "clone", "--quiet", "--depth=1", url+"/big.git", filepath.Join(dir, "source"))
		},
		"checkout-source": func(dir string) *exec.Cmd {
			return exec.Command(bin, "--git-repo", url+
				"/big.git", "--branch", "main", "--workspace", dir, "--results-dir", filepath.Join(dir, "results"))
		},
	} {
		b.Run(name, func(b *testing.B) {
			var peak int64
			for b.Loop() {
				b.StopTimer()
				dir, err := os.MkdirTemp(root, "workspace-")
				if err != nil {
					b.Fatal(err)
				}
				cmd := command(dir)
				cmd.Env = append(os.Environ(), devgit.Hermetic()...)
				b.StartTimer()
				out, err := cmd.CombinedOutput()
				b.StopTimer()
				if err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				peak = max(peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
				if err := os.RemoveAll(dir); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(peak)/1024, "MiB-peak")
		})
	}
}

// BenchmarkVerification measures what it costs to believe nothing of a workspace but a digest, on 10,000 files: the
// last step, which verifies the list of them and one file, with a digest and without.
func BenchmarkVerification(b *testing.B) {
	source, root, bin := b.TempDir(), b.TempDir(), b.TempDir()
	manyFiles(b, source, 10_000)
	if err := os.WriteFile(filepath.Join(source, "workload.yaml"), []byte("endpoints: []\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	repo := filepath.Join(root, "big.git")
	if _, err := devgit.Import(b.Context(), source, repo, "many files", time.Unix(1_700_000_000, 0)); err != nil {
		b.Fatal(err)
	}
	url, err := devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin,
		"github.com/stepwright/stepwright/steps/checkout-source",
		"github.com/stepwright/stepwright/steps/generate-workload-cr")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	workspace, results := filepath.Join(root, "workspace"), filepath.Join(root, "results")
	run := func(step string, flags ...string) *os.ProcessState {
		flags = append(flags, "--workspace="+workspace, "--results-dir="+results)
		cmd := exec.Command(filepath.Join(bin, step), flags...)
		cmd.Env = append(os.Environ(), devgit.Hermetic()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return cmd.ProcessState
	}
	run("checkout-source", "--git-repo="+url+"/big.git", "--branch=main")
	digest, err := os.ReadFile(filepath.Join(results, "source-digest"))
	if err != nil {
		b.Fatal(err)
	}
	list, err := os.Stat(filepath.Join(workspace, "tree", "manifest"))
	if err != nil {
		b.Fatal(err)
	}
	for name, digest := range map[string]string{"believed": "", "verified": string(digest)} {
		b.Run(name, func(b *testing.B) {
			var peak int64
			for b.Loop() {
				state := run("generate-workload-cr", "--dry-run", "--source-digest="+digest,
					"--image=registry.example.com/acme/cart:v1", "--namespace-name=acme", "--project-name=shop",
					"--component-name=cart")
				peak = max(peak, state.SysUsage().(*syscall.Rusage).Maxrss)
			}
			b.ReportMetric(float64(peak)/1024, "MiB-peak")
			b.ReportMetric(float64(list.Size())/1e6, "MB-list")
		})
	}
}

// manyFiles fills a folder with so many files of words, and some that do not compress: the same each time.
func manyFiles(b *testing.B, dir string, count int) {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 5000)
	for i := range words {
		for range 3 + random.IntN(7) {
			words[i] = append(words[i], byte('a'+random.IntN(26)))
		}
	}
	for i := range count {
		folder := filepath.Join(dir, fmt.Sprintf("m%d/p%d", i/100, i/10%10))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatal(err)
		}
		var content bytes.Buffer
		for size := random.IntN(12_000); content.Len() < size; {
			content.Write(words[random.IntN(len(words))])
			content.WriteByte(" \n"[random.IntN(2)])
		}
		if i%400 == 0 {
			for range 1_000_000 {
				content.WriteByte(byte(random.Uint32()))
			}
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), content.Bytes(), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
