package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// extract writes an image's files as a container runtime does, with their owners and file capabilities.
func extract(t testing.TB, img v1.Image, dir string) {
	t.Helper()
	walk(t, img, func(header *tar.Header, content io.Reader) {
		path := filepath.Join(dir, header.Name)
		mode := header.FileInfo().Mode()
		var err error
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, mode)
		} else {
			var data []byte
			if data, err = io.ReadAll(content); err == nil {
				err = os.WriteFile(path, data, mode)
			}
		}
		err = errors.Join(err, os.Chown(path, header.Uid, header.Gid), os.Chmod(path, mode))
		for record, value := range header.PAXRecords {
			if name, ok := strings.CutPrefix(record, "SCHILY.xattr."); ok {
				err = errors.Join(err, unix.Setxattr(path, name, []byte(value), 0))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A pod is how a container of an image runs.
type pod struct {
	image        string // the step
	args         []string
	workspace    string   // on this machine; empty: none
	capabilities []string // that are added after all were dropped
	escalation   bool     // allowPrivilegeEscalation
}

// run runs the image's entrypoint as a container runtime runs it for a kubelet: by the image's user, with a root file
// system that cannot be written to, without a capability but those given, in the node's network. It returns what the
// container says.
func (p pod) run(t testing.TB) (string, error) {
	t.Helper()
	all, _ := platforms(t, filepath.Join(madeImages(t), p.image))
	img := all[runtime.GOARCH]
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var uid, gid int
	if _, err := fmt.Sscanf(config.Config.User, "%d:%d", &uid, &gid); err != nil {
		t.Fatal(err)
	}
	bundle, err := os.MkdirTemp(scratch, "bundle-")
	if err != nil {
		t.Fatal(err)
	}
	// Nobody can write to it, so that all containers of an image may have the same.
	root := filepath.Join(scratch, "root-"+p.image)
	if err := os.Mkdir(root, 0o755); err == nil {
		extract(t, img, root)
	} else if !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}

	type object = map[string]any
	mount := func(destination, kind, source string, options ...string) object {
		return object{"destination": destination, "type": kind, "source": source, "options": options}
	}
	mounts := []object{
		mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
		mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
		mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
		mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
		mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "mode=1777"),
	}
	if p.workspace != "" {
		mounts = append(mounts, mount("/mnt/vol", "bind", p.workspace, "rbind", "rw"))
	}
	spec, err := json.Marshal(object{
		"ociVersion": "1.0.2",
		"process": object{
			"user": object{"uid": uid, "gid": gid, "additionalGids": []int{2000}},
			"args": append(config.Config.Entrypoint, p.args...),
			"env":  config.Config.Env, "cwd": "/",
			"capabilities": object{
				"bounding":  p.capabilities,
				"permitted": p.capabilities,
				"effective": p.capabilities,
			},
			"noNewPrivileges": !p.escalation,
		},
		"root":   object{"path": root, "readonly": true},
		"mounts": mounts,
		"linux": object{
			"namespaces": []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}},
			"maskedPaths": []string{
				"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/sched_debug",
				"/proc/scsi", "/sys/firmware",
			},
			"readonlyPaths": []string{
				"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), spec, 0o644); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(bundle, "state")
	cmd := exec.Command("runc", "--root", state, "run", "--bundle", bundle, filepath.Base(bundle))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestEntrypoints(t *testing.T) {
	for _, p := range []pod{
		{image: "checkout-source"},
		{image: "buildpacks-build"},
		{image: "scan-gate"},
		{image: "publish-image"},
		{image: "generate-workload-cr"},
		{image: "commit-status"},
		{image: "containerfile-build", capabilities: []string{"CAP_SETUID", "CAP_SETGID"}, escalation: true},
		{image: "containerfile-build"}, // as the client of a daemon
		{image: "containerfile-build", escalation: true},
	} {
		t.Run(p.image, func(t *testing.T) {
			p.args = []string{"--help"}
			out, err := p.run(t)
			if err != nil || !strings.Contains(out, "Usage:\n  "+p.image+" ") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// The builder's image has all that it takes to build, in a pod without privileges.
func TestBuildInContainer(t *testing.T) {
	madeImages(t)
	store, err := baseimages.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	base := baseimages.Store{Dir: store}
	if err := base.Ensure(t.Context(), baseimages.Busybox); err != nil {
		t.Fatal(err)
	}
	host := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous).Host
	if err := base.Push(t.Context(), host, baseimages.Busybox); err != nil {
		t.Fatal(err)
	}

	// Of neither is there a program in the image.
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "g"), []byte("of Git\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	archive, err := exec.Command("tar", "-C", folder, "--owner=77", "--group=77", "-cJ", "g").Output()
	if err != nil {
		t.Fatalf("tar needs the Debian package xz-utils: %v", err)
	}
	repositories := t.TempDir()
	if _, err := devgit.Import(t.Context(), folder, filepath.Join(repositories, "r.git"), "g", time.Now()); err != nil {
		t.Fatal(err)
	}
	git, err := devgit.Start(t.Context(), "127.0.0.1:0", &devgit.Handler{Root: repositories})
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		name, dockerfile string
		files            map[string]int // in the image, with their owners
	}{
		{
			name:       "an archive and a repository",
			dockerfile: "FROM scratch\nADD a.tar.xz /x/\nADD --chown=5 " + git + "/r.git#main /r/\n",
			files:      map[string]int{"x/g": 77, "r/g": 5},
		},
		{
			name:       "from nothing",
			dockerfile: "FROM scratch\nCOPY --chown=1234:1234 message /m\n",
			files:      map[string]int{"m": 1234},
		},
		{
			name: "run as several users",
			dockerfile: "FROM busybox:1 AS make\nCOPY message /m\n" +
				"RUN test $(id -u) = 0 && cp /m /n && chown 65534 /n\nUSER 4321\nRUN cp /m /tmp/o\nFROM scratch\n" +
				"COPY --from=make /n /tmp/o /\n",
			files: map[string]int{"n": 65534, "o": 4321},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			workspace, err := os.MkdirTemp(scratch, "vol-")
			if err != nil {
				t.Fatal(err)
			}
			for name, content := range map[string]string{
				"Dockerfile": test.dockerfile, "message": "hi\n", "a.tar.xz": string(archive),
			} {
				path := filepath.Join(workspace, "source", name)
				if err := errors.Join(
					os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644),
				); err != nil {
					t.Fatal(err)
				}
			}
			// As a volume with fsGroup.
			if err := errors.Join(os.Chown(workspace, 0, 2000), os.Chmod(workspace, 0o770|os.ModeSetgid)); err != nil {
				t.Fatal(err)
			}
			out, err := pod{
				image: "containerfile-build", workspace: workspace,
				capabilities: []string{"CAP_SETUID", "CAP_SETGID"}, escalation: true,
				args: []string{
					"--source-date-epoch=1700000000", "--provenance=none", "--max-attempts=1",
					"--results-dir=/tmp/results",
					`--registry-mirrors=[{"registry":"docker.io","mirror":"` + host + `"}]`,
					`--insecure-registries=["` + host + `"]`,
				},
			}.run(t)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			index, err := readLayout(filepath.Join(workspace, "image"))
			if err != nil {
				t.Fatal(err)
			}
			owners := map[string]int{}
			walk(t, index, func(header *tar.Header, _ io.Reader) {
				owners[strings.TrimPrefix(header.Name, "/")] = header.Uid
			})
			for name, owner := range test.files {
				if got, ok := owners[name]; !ok || got != owner {
					t.Errorf("%s: there is %t, owner %d, want %d", name, ok, got, owner)
				}
			}
		})
	}

	// It starts, since a daemon may be what builds, and says what it lacks when it is to build itself.
	t.Run("in a pod that adds no capabilities", func(t *testing.T) {
		workspace := t.TempDir()
		if err := errors.Join(os.Chmod(workspace, 0o777), os.Mkdir(filepath.Join(workspace, "source"), 0o755),
			os.WriteFile(
				filepath.Join(workspace, "source", "Dockerfile"), []byte("FROM scratch\nCOPY . /\n"), 0o644,
			)); err != nil {
			t.Fatal(err)
		}
		out, err := pod{
			image:      "containerfile-build",
			workspace:  workspace,
			args:       []string{"--results-dir=/tmp/results"},
			escalation: true,
		}.run(t)
		if err == nil || !strings.Contains(
			out,
			"BuilderUnavailable: cannot build as user 1000: the process has not the capabilities SETUID and SETGID",
		) {
			t.Errorf("%v\n%s", err, out)
		}
	})
}
