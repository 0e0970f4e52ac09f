// Package bench measures the steps against the tools they replace.
package bench

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// BenchmarkCheckout compares checkout-source with git clone --depth 1, on the disk and on tmpfs.
//
// STEPWRIGHT_BENCH_REPOSITORIES names a folder that keeps the repositories from one run to the next.
func BenchmarkCheckout(b *testing.B) {
	root := b.TempDir()
	if kept := os.Getenv("STEPWRIGHT_BENCH_REPOSITORIES"); kept != "" {
		root = kept
	}
	all := versions(b, "steps/checkout-source")
	url, err := devgit.Start(b.Context(), "127.0.0.1:0", &devgit.Handler{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	for _, repo := range []struct {
		name  string
		write func(testing.TB, string)
	}{
		{"10600files", func(b testing.TB, dir string) { manyFiles(b, dir, 10_600) }},
		{"20000files", func(b testing.TB, dir string) { manyFiles(b, dir, 20_000) }},
		{"100000deep", deepFiles},
		{"3bigblobs", similarBlobs},
	} {
		b.Run(repo.name, func(b *testing.B) {
			makeRepository(b, filepath.Join(root, repo.name+".git"), repo.write)
			url := url + "/" + repo.name + ".git"
			for _, disk := range []struct {
				name string
				make func(*testing.B) (dir string, remove func())
			}{{"disk", newVolume}, {"tmpfs", memoryFolder}} {
				b.Run(disk.name, func(b *testing.B) {
					clone := into(disk.make, func(dir string) *exec.Cmd {
						return exec.Command("git", "clone", "--quiet", "--depth=1", url, filepath.Join(dir, "source"))
					})
					c := contest{contenders: []contender{{"git clone --depth 1", clone}}}
					for _, version := range all {
						checkout := into(disk.make, func(dir string) *exec.Cmd {
							return exec.Command(filepath.Join(version.dir, "checkout-source"), "--git-repo", url,
								"--branch", "main", "--workspace", dir, "--results-dir", filepath.Join(dir, "results"))
						})
						c.contenders = append(c.contenders, contender{version.name, checkout})
					}
					c.run(b)
				})
			}
		})
	}
}

// into prepares a checkout into a new folder, which newFolder makes.
func into(
	newFolder func(*testing.B) (dir string, remove func()), command func(dir string) *exec.Cmd,
) func(*testing.B) trial {
	return func(b *testing.B) trial {
		dir, remove := newFolder(b)
		cmd := command(dir)
		cmd.Env = append(os.Environ(), devgit.Hermetic()...)
		return trial{commands: []*exec.Cmd{cmd}, remove: remove}
	}
}

// newVolume makes an empty file system, as a new claim has it, in a file on the machine's disk. A folder would not do:
// for minutes an ext4 without a journal looks past each file that was removed, one by one, so that every round would
// pay for what the rounds before it have removed. It needs root. The path is short, since podman refuses long ones.
func newVolume(b *testing.B) (dir string, remove func()) {
	b.Helper()
	root, err := os.MkdirTemp("", "bench-")
	if err != nil {
		b.Fatal(err)
	}
	image, dir := filepath.Join(root, "image"), filepath.Join(root, "v")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(os.Truncate(image, 16<<30), os.Mkdir(dir, 0o755)); err != nil {
		b.Fatal(err)
	}
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-F", image},
		{"mount", "-o", "loop,noinit_itable", image, dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			os.RemoveAll(root)
			b.Skipf("%s: %v: %s", args, err, out)
		}
	}
	return dir, func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			b.Fatalf("umount %s: %v: %s", dir, err, out)
		}
		os.RemoveAll(root)
	}
}

// memoryFolder makes a folder on tmpfs.
func memoryFolder(b *testing.B) (dir string, remove func()) {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stepwright-bench-")
	if err != nil {
		b.Skip(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

// makeRepository makes a packed repository of what write leaves in a folder, unless it is there.
func makeRepository(b *testing.B, repo string, write func(testing.TB, string)) {
	b.Helper()
	if _, err := os.Stat(filepath.Join(repo, "packed-refs")); err == nil {
		return
	}
	source := b.TempDir()
	write(b, source)
	if _, err := devgit.Import(b.Context(), source, repo, "files", time.Unix(1_700_000_000, 0)); err != nil {
		b.Fatal(err)
	}
	if _, err := devgit.Git(b.Context(), repo, nil, nil, "gc", "--quiet"); err != nil {
		b.Fatal(err)
	}
}

// deepFiles fills a folder with 100,000 small files, 8 folders deep.
func deepFiles(b testing.TB, dir string) {
	b.Helper()
	for i := range 100_000 {
		folder := dir
		for level, width := range []int{10, 2, 5, 2, 5, 2, 5, 1} { // 10,000 folders at the lowest level
			n := i
			for _, w := range []int{10, 2, 5, 2, 5, 2, 5, 1}[:level] {
				n /= w
			}
			folder = filepath.Join(folder, fmt.Sprintf("level%d-%d", level, n%width))
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatal(err)
		}
		text := strings.Repeat(fmt.Sprintf("line of file %d\n", i), 5+i%50)
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("file%d.txt", i)), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// similarBlobs fills a folder with three files of 150 MB that differ in a few bytes.
func similarBlobs(b testing.TB, dir string) {
	b.Helper()
	content := make([]byte, 150_000_000)
	random := rand.NewChaCha8([32]byte{1})
	random.Read(content)
	for i := range 3 {
		for at := i; at < len(content); at += 10_000_000 {
			content[at]++
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("model-%d.bin", i)), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkVerification measures what it costs to believe nothing of a workspace but a digest, on 10,000 files: the
// last step, which verifies the list of them and one file, with a digest and without.
func BenchmarkVerification(b *testing.B) {
	source, root := b.TempDir(), b.TempDir()
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
	bin := versions(b, "steps/checkout-source", "steps/generate-workload-cr")[0].dir
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
func manyFiles(b testing.TB, dir string, count int) {
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
