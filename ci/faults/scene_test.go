package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A scene is a step with its folders, at a site.
type scene struct {
	*site
	t       *testing.T
	works   *works
	step    *step
	folder  string   // holds the others
	memory  string   // cgroup of the step; empty: none of its own
	fixed   []string // places that cannot be written to
	lent    []mount  // folders of another scene
	flags   []string // more than the step's own
	version int      // of its secrets
}

// newScene makes the folders as the steps before this one left them.
func newScene(t *testing.T, w *works, step *step, s *site) *scene {
	t.Helper()
	folder := t.TempDir()
	for dir := folder; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // another user runs buildpacks
			t.Fatal(err)
		}
	}
	c := &scene{site: s, t: t, works: w, step: step, folder: folder}
	for _, dir := range []string{
		"vol", "tmp", "bin", "root", "secrets", "product/application", "product/layers", "platform", "state",
	} {
		c.mkdir(dir)
	}
	c.write("ca.pem", w.authority.PEM())
	c.write("resolv.conf", fmt.Appendf(nil, "nameserver %s\noptions ndots:5 timeout:1 attempts:2\n", s.address))
	c.write("message", nil)
	c.secrets(*s.secret.Load())
	if from := step.from(w); from != "" {
		copyTree(t, from, filepath.Join(folder, "vol"))
	}
	if step.user != 0 {
		for _, dir := range []string{"vol", "tmp", "product", "platform", "message"} {
			run(t, "", "chown", "-R", fmt.Sprintf("%d:%d", step.user, step.user), filepath.Join(folder, dir))
		}
	}
	if step.prepare != nil {
		step.prepare(c)
	}
	return c
}

func (c *scene) mkdir(name string) {
	c.t.Helper()
	dir := filepath.Join(c.folder, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		c.t.Fatal(err)
	}
}

func (c *scene) write(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.folder, name), content, 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// secrets puts the secret where the kubelet would, and how: all files of it change at one moment.
func (c *scene) secrets(secret string) {
	c.t.Helper()
	c.version++
	for dir, files := range map[string]map[string]string{
		"git":      {"username": user, "password": secret},
		"registry": {".dockerconfigjson": string(dockerConfig(secret))},
		"api":      {"client-secret": secret},
	} {
		version := fmt.Sprintf("..%d", c.version)
		c.mkdir(filepath.Join("secrets", dir, version))
		for name, content := range files {
			c.write(filepath.Join("secrets", dir, version, name), []byte(content))
			os.Symlink("..data/"+name, filepath.Join(c.folder, "secrets", dir, name))
		}
		link := filepath.Join(c.folder, "secrets", dir, "..data")
		if err := errors.Join(os.Symlink(version, link+"_tmp"), os.Rename(link+"_tmp", link)); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *scene) vol() string { return filepath.Join(c.folder, "vol") }

// ending is how a step ended.
type ending struct {
	reason  outcome.Reason
	message string
	results map[string]string
	word    word
	out     string
	took    time.Duration
}

// patience is how long a step may take. A step that hangs loses a build, too.
const patience = 8 * time.Minute

// begin starts the step.
func (c *scene) begin(ctx context.Context) *attempt {
	c.t.Helper()
	n := nanny{Memory: c.memory, User: c.step.user, Args: append(c.step.args(c), c.flags...)}
	n.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}
	if c.step.root {
		n.Root = filepath.Join(c.folder, "root")
		n.Program = "/opt/stepwright/" + c.step.name
		for _, id := range []string{"CNB_USER_ID", "CNB_GROUP_ID"} {
			n.Env = append(n.Env, fmt.Sprintf("%s=%d", id, c.step.user))
		}
		n.Mounts = append(n.Mounts, mount{From: c.works.builder, To: n.Root})
		for from, to := range map[string]string{
			"vol": "mnt/vol", "tmp": "tmp", "product/layers": "layers", "product/application": "workspace",
			"platform": "platform", "secrets": "mnt/secrets", "ca.pem": "mnt/ca.pem", "message": "mnt/message",
			"resolv.conf": "etc/resolv.conf",
		} {
			n.Mounts = append(n.Mounts, mount{From: filepath.Join(c.folder, from), To: filepath.Join(n.Root, to)})
		}
		n.Mounts = append(n.Mounts, mount{From: "proc", To: filepath.Join(n.Root, "proc")},
			mount{From: "/dev", To: filepath.Join(n.Root, "dev")})
	} else {
		n.Program = "/mnt/bin/" + c.step.name
		n.Mounts = []mount{
			{From: c.folder, To: "/mnt"}, {From: c.works.bin, To: "/mnt/bin"},
		}
		n.Mounts = append(n.Mounts, c.lent...)
		n.Mounts = append(n.Mounts,
			mount{From: "/mnt/resolv.conf", To: "/etc/resolv.conf"}, mount{From: "/mnt/tmp", To: "/tmp"})
	}
	for _, place := range c.fixed {
		to := filepath.Join(n.Root, place)
		n.Mounts = append(n.Mounts, mount{From: to, To: to, ReadOnly: true})
	}
	return n.start(ctx, c.t)
}

// renew empties what a pod has of its own: the next attempt is another's.
func (c *scene) renew() {
	c.t.Helper()
	for _, own := range []string{"tmp", "product/application", "product/layers", "platform"} {
		c.empty(own)
	}
	c.write("message", nil)
}

// empty removes what is in a folder.
func (c *scene) empty(name string) {
	c.t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.folder, name))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(c.folder, name, entry.Name())); err != nil {
			c.t.Fatal(err)
		}
	}
}

// run runs the step to its end. during is what happens meanwhile; it may be nil.
func (c *scene) run(during func(*attempt)) ending {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	started := time.Now()
	a := c.begin(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if during != nil {
			during(a)
		}
	}()
	end := context.AfterFunc(ctx, func() { a.kill(9) })
	defer end()
	e := ending{word: a.wait(c.t), took: time.Since(started), results: map[string]string{}}
	<-done
	e.out = a.out.String()
	if ctx.Err() != nil {
		c.t.Errorf("it does not end\n%s", e.out)
	}
	c.read(&e)
	return e
}

// read reads what the step left to tell how it ended, as Argo and the local pipeline do: outcome.json, where it is of
// the end, or else the exit code.
func (c *scene) read(e *ending) {
	c.t.Helper()
	var report outcome.Report
	raw, err := os.ReadFile(filepath.Join(c.folder, "tmp", "results", "outcome.json"))
	if err == nil {
		err = json.Unmarshal(raw, &report)
	}
	killed := e.word.Signal == 9
	switch {
	case err == nil && (report.ExitCode == e.word.Code || killed && report.Reason == outcome.Killed):
		e.reason, e.message = report.Reason, report.Message
	case killed:
		e.reason = outcome.Killed // the kubelet tells so itself
	default:
		reason, known := outcome.OfExitCode(e.word.Code)
		raw, _ := os.ReadFile(filepath.Join(c.folder, "message"))
		word, text, _ := strings.Cut(string(raw), ": ")
		if !known || word != string(reason) {
			c.t.Errorf("exit code %d and message %q tell no reason, outcome.json tells %q: %v\n%s",
				e.word.Code, raw, report.Reason, err, e.out)
		}
		e.reason, e.message = reason, text
	}
	files, _ := os.ReadDir(filepath.Join(c.folder, "tmp", "results"))
	for _, file := range files {
		if raw, err := os.ReadFile(filepath.Join(c.folder, "tmp", "results", file.Name())); err == nil {
			e.results[file.Name()] = string(raw)
		}
	}
}

// litter lists what the step should have removed from folders that outlive it, or from those of its own.
func (c *scene) litter(dirs ...string) (left []string) {
	c.t.Helper()
	for _, dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(c.folder, dir))
		if err != nil {
			c.t.Fatal(err)
		}
		for _, entry := range entries {
			known := []string{"source", "tree", "revision.json", "image", "cache", "sbom"}
			if dir == "tmp" {
				known = []string{"results"}
			}
			known = append(known, filler)
			if !slices.Contains(known, entry.Name()) {
				left = append(left, filepath.Join(dir, entry.Name()))
			}
		}
	}
	return left
}

// copyTree copies a folder's content, with owners and times.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "", "cp", "-a", from+"/.", to)
}

func run(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}
