package attacks

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/programtest"
)

// bin is the folder of the steps' binaries, as they are released.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() { // every exploit takes the released binaries, and most take long
		return
	}
	os.Exit(func() int {
		var err error
		if bin, err = os.MkdirTemp("", "attacks-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(bin)
		if err := programtest.Build(
			context.Background(), bin, "../..", "./cmd/stepwright", "./steps/buildpacks-build",
			"./steps/checkout-source", "./steps/containerfile-build", "./steps/generate-workload-cr",
			"./steps/publish-image",
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// ending is how a step ended.
type ending struct {
	report  outcome.Report
	code    int
	results string // folder of the results
	stdout  string
	stderr  string
}

// result is the content of a file of results, or empty.
func (e ending) result(name string) string {
	raw, err := os.ReadFile(filepath.Join(e.results, name))
	if err != nil {
		return ""
	}
	return string(raw)
}

// patience is how long a step may take. A step that hangs is a breach, too.
const patience = 2 * time.Minute

// step runs a step's binary with flags (--name=value), in an environment of its own, to its end.
func step(t *testing.T, name string, flags ...string) ending {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	e := ending{results: filepath.Join(dir, "results")}
	flags = append(flags, "--results-dir="+e.results, "--termination-message-path="+filepath.Join(dir, "message"))
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), flags...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + os.TempDir()}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s %s does not end: %s", name, strings.Join(flags, " "), stderr.String())
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if exit != nil {
		e.code = exit.ExitCode()
	}
	e.stdout, e.stderr = stdout.String(), stderr.String()
	raw, err := os.ReadFile(filepath.Join(e.results, "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &e.report)
	}
	if err != nil {
		t.Fatalf("%s left no outcome: %v\n%s", name, err, e.stderr)
	}
	return e
}

// refused fails the test unless the step ended with this reason and with these words in its message.
func (e ending) refused(t *testing.T, reason outcome.Reason, words ...string) {
	t.Helper()
	if e.report.Reason != reason {
		t.Fatalf("it ended with %s: %s\n%s", e.report.Reason, e.report.Message, e.stderr)
	}
	for _, word := range words {
		if !strings.Contains(e.report.Message, word) {
			t.Errorf("the message %q lacks %q", e.report.Message, word)
		}
	}
}

// write makes files in a folder: path to content.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for path, content := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// archive writes a tar archive of these files.
func archive(t *testing.T, path string, files map[string]string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o644, Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// join makes one file of several, each of which ends with a line.
func join(t *testing.T, paths ...string) string {
	t.Helper()
	var all []byte
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, raw...), '\n')
	}
	joined := filepath.Join(t.TempDir(), "joined")
	if err := os.WriteFile(joined, all, 0o644); err != nil {
		t.Fatal(err)
	}
	return joined
}
