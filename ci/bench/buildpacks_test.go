package bench

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/testimage/mirror"
)

// BenchmarkBuildpacks compares the first build of an example by buildpacks with a build after one line of its source
// has changed, which has the cache of the first. The build is the one of stepwright run, with the builders for tests:
// real builders download more, and cache more. It reports medians: of the build step alone, init containers included,
// and of the whole run, which publishes, too.
func BenchmarkBuildpacks(b *testing.B) {
	bin, state := b.TempDir(), b.TempDir()
	build := exec.Command(
		"go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "../../cmd/stepwright", "../../steps/...",
	)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	standIns, err := mirror.Start(mirror.Options{Dir: filepath.Join(state, "mirror")})
	if err != nil {
		b.Fatal(err)
	}
	defer standIns.Close()
	for _, bench := range []struct{ name, builder, example, file, line string }{
		{"Go", "gcp", "reading-list-service", "handler.go", "var Changed = true\n"},
		{"Node.js", "paketo", "link-shortener", "server.js", "// changed\n"},
	} {
		b.Run(bench.name, func(b *testing.B) {
			builder, err := standIns.MakeBuilder(b.Context(), bench.builder)
			if err != nil {
				b.Fatal(err)
			}
			flags := append(standIns.Flags(), builder...)
			example := filepath.Join("../../examples", bench.example)
			run := func(registry, source string) (step, all time.Duration) {
				cmd := exec.Command(filepath.Join(bin, "stepwright"), append([]string{
					"run", "--state", state, "--registry", registry, "--insecure-plain-http", "--source", source,
					example,
				}, flags...)...)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				started := time.Now()
				if err := cmd.Run(); err != nil {
					b.Fatalf("%v: %s", err, &stderr)
				}
				all = time.Since(started)
				took := regexp.MustCompile(`buildpacks-build +│ ✓ ([0-9.]+m?s)`).FindStringSubmatch(stderr.String())
				if took == nil {
					b.Fatalf("nothing says how long the build took: %s", &stderr)
				}
				step, err := time.ParseDuration(took[1])
				if err != nil {
					b.Fatal(err)
				}
				return step, all
			}
			once := func() (steps, alls [2]time.Duration) {
				dir := b.TempDir()
				registry, err := devregistry.New(devregistry.Options{Dir: filepath.Join(dir, "registry")})
				if err != nil {
					b.Fatal(err)
				}
				defer registry.Close()
				host, err := registry.Start("")
				if err != nil {
					b.Fatal(err)
				}
				source := filepath.Join(dir, "source")
				if err := os.CopyFS(source, os.DirFS(example)); err != nil {
					b.Fatal(err)
				}
				steps[0], alls[0] = run(host, source)
				raw, err := os.ReadFile(filepath.Join(source, bench.file))
				if err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(
					filepath.Join(source, bench.file), append(raw, bench.line...), 0o644,
				); err != nil {
					b.Fatal(err)
				}
				steps[1], alls[1] = run(host, source)
				return steps, alls
			}
			once() // makes the builders and unpacks them
			var first, rebuild, firstRun, rebuildRun []time.Duration
			for b.Loop() {
				steps, alls := once()
				first, rebuild = append(first, steps[0]), append(rebuild, steps[1])
				firstRun, rebuildRun = append(firstRun, alls[0]), append(rebuildRun, alls[1])
			}
			b.ReportMetric(median(first), "s-first-build")
			b.ReportMetric(median(rebuild), "s-rebuild")
			b.ReportMetric(median(first)/median(rebuild), "x-faster")
			b.ReportMetric(median(firstRun), "s-first-run")
			b.ReportMetric(median(rebuildRun), "s-second-run")
		})
	}
}

// median is in seconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return all[len(all)/2].Seconds()
}
