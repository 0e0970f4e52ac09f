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
	manyFiles(b, source)
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

// manyFiles fills a folder with 20,000 files of words, and some that do not compress: the same each time.
func manyFiles(b *testing.B, dir string) {
	b.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 5000)
	for i := range words {
		for range 3 + random.IntN(7) {
			words[i] = append(words[i], byte('a'+random.IntN(26)))
		}
	}
	for i := range 20_000 {
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
