package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// All that an instruction prints is in the log, each line as what it is: a stranger's.
func TestLog(t *testing.T) {
	t.Parallel()
	const lines = 600_000
	r := newRegistry(t)
	binary := program(t, stepPackage)
	for _, format := range []string{"text", "json"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": `FROM busybox:1
RUN printf '::error::x\n##vso[task.x]y\n19:02:07 ERROR Forged: x\n{"level":"ERROR"}\n' && \
    seq 1 ` + strconv.Itoa(lines) + ` | sed s/^/n/ && \
    printf '\033]0;title\007\033[31mred\033[2J\rx\n' && exit 3
`}), r)
			results := t.TempDir()
			cmd := exec.Command(binary, append(arguments(t, in, results), "--log-format="+format)...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err == nil {
				t.Fatal("it is built")
			}

			ours := regexp.MustCompile(`^(\d\d:\d\d:\d\d |\| )`)
			numbers := regexp.MustCompile(` n(\d+)$`)
			seen := 0
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				if format == "json" {
					var event struct{ Msg string }
					if err := json.Unmarshal([]byte(line), &event); err != nil {
						t.Fatalf("%q: %v", line, err)
					}
					line = event.Msg
				} else if !ours.MatchString(line) {
					t.Errorf("%q begins as no line of a log", line)
				}
				// At the end the builder repeats the last ones.
				if m := numbers.FindStringSubmatch(line); m != nil && seen < lines {
					if seen++; m[1] != fmt.Sprint(seen) {
						t.Fatalf("after %d comes %q", seen-1, line)
					}
				}
			}
			if seen != lines {
				t.Errorf("%d of %d lines are there", seen, lines)
			}
			if strings.ContainsAny(out.String(), "\x1b\a\r") || strings.Contains(out.String(), "##vso[") {
				t.Error("it holds what a terminal or a CI obeys")
			}
			report, err := outcome.Read(results)
			t.Logf("%d bytes of log, %d MiB of memory", out.Len(), report.PeakMemoryBytes>>20)
			if err != nil || report.Reason != outcome.BuildFailed ||
				!strings.HasSuffix(report.Message, "\nn600000\n"+`x`) {
				t.Errorf("%v: %q", err, report.Message)
			}
			raw := must(os.ReadFile(filepath.Join(results, "outcome.json")))
			if bytes.Contains(raw, []byte(`\u001b`)) || bytes.Contains(raw, []byte(`\u0007`)) {
				t.Errorf("%s", raw)
			}
		})
	}
}

// Output without the end of a line takes time in proportion to its length, and is all there.
func TestLogWithoutLines(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	binary := program(t, stepPackage)
	cost := func(size int) time.Duration {
		in := parameters(project(t, map[string]string{
			"Dockerfile": fmt.Sprintf("FROM busybox:1\nRUN head -c %d /dev/zero | tr '\\0' x\n", size),
		}), r)
		results := t.TempDir()
		cmd := exec.Command(binary, arguments(t, in, results)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		started := time.Now()
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %.1000s", err, out.String())
		}
		took := time.Since(started)
		report, err := outcome.Read(results)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d bytes took %s and %d MiB", size, took, report.PeakMemoryBytes>>20)
		if n := bytes.Count(out.Bytes(), []byte("x")); n < size {
			t.Errorf("%d of %d bytes are there", n, size)
		}
		return took
	}
	if small, large := cost(6_000_000), cost(60_000_000); large > 20*small {
		t.Errorf("6 MB took %s, 60 MB %s", small, large)
	}
}
