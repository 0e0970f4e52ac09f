package externalci_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// pushCanary is the password for the registry. Like canary it must not appear in anything that is written.
const pushCanary = "canary-pu$h'\"%pass word"

// bench is all that a pipeline needs: a repository, a registry, a platform, and the release to fetch the step from.
type bench struct {
	t *testing.T
	*platform
	component string
	repo      string // Git repository of the application
	commit    string
	registry  string // host:port
	release   string // URL
	checksum  string // what sha256sum prints of its SHA256SUMS
	path      string // PATH, on which docker is podman
	home      string
}

const applicationDescriptor = "endpoints:\n- {name: web, port: 8080, type: HTTP, schemaFile: api/openapi.yaml}\n"

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, platform: newPlatform(t), home: t.TempDir()}
	b.platform.mustBeOurs(t)
	b.component = b.platform.component(t)

	b.repo = t.TempDir()
	for name, text := range map[string]string{
		"Dockerfile":       "FROM scratch\nCOPY hello /hello\n",
		"hello":            "hello\n",
		"workload.yaml":    applicationDescriptor,
		"api/openapi.yaml": "openapi: 3.0.0\n",
	} {
		write(t, filepath.Join(b.repo, name), text)
	}
	b.git("init", "--quiet", "--initial-branch=main")
	b.commitAll()

	registry, err := devregistry.New(devregistry.Options{Users: map[string]string{"pusher": pushCanary}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	if b.registry, err = registry.Start(""); err != nil {
		t.Fatal(err)
	}

	files := httptest.NewServer(http.FileServer(http.Dir(*binaries)))
	t.Cleanup(files.Close)
	sums, err := os.ReadFile(filepath.Join(*binaries, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(sums)
	b.release, b.checksum = files.URL, hex.EncodeToString(digest[:])+"  dist/bin/SHA256SUMS"
	b.path = b.docker() + ":" + os.Getenv("PATH")
	return b
}

// mustBeOurs fails if the secrets are such that to look for them proves nothing.
func (p *platform) mustBeOurs(t *testing.T) {
	t.Helper()
	if len(p.publisher.secret) < 8 {
		t.Fatal("the publisher's secret is too short to be looked for")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) git(args ...string) string {
	b.t.Helper()
	cmd := exec.Command("git", append([]string{
		"-C", b.repo, "-c", "user.name=Ada", "-c", "user.email=ada@example.com",
	}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("git %s: %v: %s", args[0], err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func (b *bench) commitAll() {
	b.t.Helper()
	b.git("add", "--all")
	b.git("commit", "--quiet", "--message=a")
	b.commit = b.git("rev-parse", "HEAD")
}

// docker makes a folder in which podman, which has docker's commands and needs no daemon, goes by docker's name. As
// docker does, it speaks plain HTTP to a registry on loopback.
func (b *bench) docker() string {
	b.t.Helper()
	podman, err := exec.LookPath("podman")
	if err != nil {
		b.t.Fatalf("%v: run ci/install/install.sh test", err)
	}
	dir := b.t.TempDir()
	write(
		b.t, filepath.Join(dir, "registries.conf"),
		fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", b.registry),
	)
	write(
		b.t, filepath.Join(dir, "storage.conf"),
		fmt.Sprintf(
			"[storage]\ndriver = \"vfs\"\nrunroot = %q\ngraphroot = %q\n", filepath.Join(dir, "run"),
			filepath.Join(dir, "root"),
		),
	)
	shim := filepath.Join(dir, "bin", "docker")
	write(
		b.t, shim,
		fmt.Sprintf(
			"#!/bin/sh\nexport CONTAINERS_REGISTRIES_CONF=%[1]s/registries.conf "+
				"CONTAINERS_STORAGE_CONF=%[1]s/storage.conf REGISTRY_AUTH_FILE=%[1]s/auth.json\nexec %s \"$@\"\n",
			dir, podman,
		),
	)
	if err := os.Chmod(shim, 0o755); err != nil {
		b.t.Fatal(err)
	}
	return filepath.Dir(shim)
}

// environ are variables that every CI has.
func (b *bench) environ(more ...string) []string {
	return append([]string{"PATH=" + b.path, "HOME=" + b.home, "LANG=C.UTF-8"}, more...)
}

// overHTTP is for the real API, which a test's cluster serves without TLS.
func overHTTP() string { return fmt.Sprintf("INSECURE_PLAIN_HTTP=%t", *apiURL != "") }

// thunderURL is the identity provider's base, as the guide's credentials have it, with the slash that browsers show.
func (b *bench) thunderURL() string { return strings.TrimSuffix(b.tokenURL, "oauth2/token") }

// registered wants the component to have one Workload, made of the descriptor, with an image that is in the registry,
// and returns the image.
func (b *bench) registered() string {
	b.t.Helper()
	all := b.workloads(b.t, b.component)
	if len(all) != 1 {
		b.t.Fatalf("%d Workloads", len(all))
	}
	w := all[0]
	if w.Spec.Endpoints["web"].Port != 8080 {
		b.t.Errorf("endpoints %v: not made of the descriptor", w.Spec.Endpoints)
	}
	image := w.Spec.Container.Image
	repository, found := strings.CutPrefix(image, b.registry+"/")
	if !found {
		b.t.Fatalf("image %s is not of %s", image, b.registry)
	}
	repository, reference, _ := strings.Cut(repository, ":")
	if tag, digest, pinned := strings.Cut(reference, "@"); pinned {
		reference = digest
	} else {
		reference = tag
	}
	req, err := http.NewRequestWithContext(b.t.Context(), "GET", "http://"+b.registry+"/v2/"+repository+"/manifests/"+
		url.PathEscape(reference), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	req.SetBasicAuth("pusher", pushCanary)
	req.Header.Set(
		"Accept",
		"application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "+
			"application/vnd.docker.distribution.manifest.v2+json",
	)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b.t.Errorf("image %s is not in the registry: %s", image, resp.Status)
	}
	return image
}

// secrets are the values that must not be seen, in the forms in which they travel.
func (b *bench) secrets() []string {
	return []string{b.publisher.secret, url.QueryEscape(b.publisher.secret), pushCanary, url.QueryEscape(pushCanary)}
}

// watched runs something while the machine's list of processes is looked at, and wants no secret in the command line of
// any that is new: a server that was there before, such as a test's identity provider, is not the pipeline's.
func (b *bench) watched(run func()) {
	b.t.Helper()
	processes := func() []string {
		paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			b.t.Error(err)
		}
		return paths
	}
	old := map[string]bool{}
	for _, path := range processes() {
		old[path] = true
	}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	looks, seen := 0, map[string]bool{}
	watching.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, path := range processes() {
				if old[path] {
					continue
				}
				line, _ := os.ReadFile(path) // of a process that has ended since, nothing
				for _, secret := range b.secrets() {
					if bytes.Contains(line, []byte(secret)) {
						seen[strings.ReplaceAll(
							strings.ReplaceAll(string(line), secret, "<THE SECRET>"), "\x00", " ",
						)] = true
					}
				}
			}
			looks++
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	run()
	close(stop)
	watching.Wait()
	if looks < 2 {
		b.t.Errorf("looked at the processes only %d times", looks)
	}
	for line := range seen {
		b.t.Errorf("a secret is on a command line: %s", line)
	}
}

// quietTree wants no secret in any file below a folder.
func (b *bench) quietTree(dir string) {
	b.t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err == nil {
			for _, secret := range b.secrets() {
				if bytes.Contains(raw, []byte(secret)) {
					b.t.Errorf("a secret is in %s", path)
				}
			}
		}
		return err
	})
	if err != nil {
		b.t.Error(err)
	}
}
