// Package container runs a program in the root file system of an image as a pod's container would, and without a
// daemon: by runc, as root, or as an ordinary user in a user namespace.
//
// It lacks some parts of a pod: limits of memory and processors, and a seccomp profile. The network is the
// machine's.
package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/stepwright/stepwright/internal/registry"
)

// Container is what runs, and where.
type Container struct {
	Image        string            // a reference; one with a digest is verified by it
	Root         string            // root file system to use instead of an image's
	Args         []string          // the program and its arguments
	Env          map[string]string // wins over the image's
	User, Group  uint32            // without any capability
	ReadOnlyRoot bool
	NoNewRights  bool // programs with the set-user-ID bit give none
	Mounts       []Mount
}

// Mount is a folder or a file of this machine in a container.
type Mount struct {
	Path     string // in the container
	Source   string // on this machine; empty: an empty folder in memory
	ReadOnly bool   // others belong to the container's user while it runs
	Lent     bool   // belongs to the container's user while it runs although it is read-only
}

// Runtime starts containers.
type Runtime struct {
	Dir          string            // of unpacked images, which several processes may use; made when absent
	Mirrors      []registry.Mirror // asked before the registry itself, in this order
	Insecure     []string          // registries on plain HTTP
	DockerConfig string            // file with the credentials to pull with; empty: none
	CABundle     string            // PEM file of authorities to trust besides the system's; empty: none
}

// Check tells what this machine lacks to run containers.
func Check(ctx context.Context) error {
	if _, err := exec.LookPath("runc"); err != nil {
		return fmt.Errorf("a builder's image is entered by runc: install the Debian package runc: %w", err)
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if out, err := asRoot(ctx, "true").CombinedOutput(); err != nil {
		return fmt.Errorf("without being root a builder's image is entered in a user namespace, which takes "+
			"newuidmap (Debian package uidmap), "+
			"unshare of util-linux 2.38 or newer, a range of yours in /etc/subuid and in /etc/subgid, and a kernel "+
			"that lets you: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// asRoot prepares a program that runs as root: of this machine, or of a user namespace in which root is who runs this
// process.
func asRoot(ctx context.Context, program string, args ...string) *exec.Cmd {
	args = append([]string{program}, args...)
	if os.Geteuid() != 0 {
		args = append([]string{"unshare", "--user", "--map-root-user", "--map-auto", "--"}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf(
			"%s: %w: %s", strings.Join(cmd.Args[:min(2, len(cmd.Args))], " "), err, strings.TrimSpace(string(out)),
		)
	}
	return nil
}

// Command prepares a container, its image first, and returns the command that runs it. SIGTERM goes
// through to the program, whose exit code is the command's. The caller must call leave at its end, however it
// ends. log hears what takes long.
func (r *Runtime) Command(
	ctx context.Context, c Container, log func(string),
) (cmd *exec.Cmd, leave func() error, err error) {
	from := image{root: c.Root}
	if c.Root == "" {
		if from, err = r.image(ctx, c.Image, log); err != nil {
			return nil, nil, err
		}
	}
	bundle, err := os.MkdirTemp("", "stepwright-container-")
	if err != nil {
		return nil, nil, err
	}
	id := filepath.Base(bundle)
	// which only means that it may do without cgroups
	runc := []string{"--root", filepath.Join(bundle, "state"), "--rootless=true"}
	leave = func() error {
		// Its context has ended when the program was told to.
		ctx := context.WithoutCancel(ctx)
		if _, err := os.Stat(filepath.Join(bundle, "state", id)); err == nil {
			_ = asRoot(ctx, "runc", append(slices.Clone(runc), "delete", "--force", id)...).Run()
		}
		return errors.Join(c.give(ctx, 0, 0), run(asRoot(ctx, "rm", "-rf", "--", bundle)))
	}
	raw, err := json.Marshal(c.spec(from))
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), raw, 0o600)
	}
	if err == nil {
		err = c.give(ctx, c.User, c.Group)
	}
	if err != nil {
		return nil, nil, errors.Join(err, leave())
	}
	return asRoot(ctx, "runc", append(runc, "run", "--bundle", bundle, id)...), leave, nil
}

// give makes a user the owner of what the container may write to, or is lent, as the kubelet does by fsGroup.
func (c Container) give(ctx context.Context, user, group uint32) error {
	args := []string{"--recursive", "--no-dereference", fmt.Sprintf("%d:%d", user, group), "--"}
	fixed := len(args)
	for _, m := range c.Mounts {
		if (!m.ReadOnly || m.Lent) && m.Source != "" {
			args = append(args, m.Source)
		}
	}
	if len(args) == fixed {
		return nil
	}
	return run(asRoot(ctx, "chown", args...))
}

// passed are the variables of this process that containers have, too: the way to the network.
var passed = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

// spec describes the container to runc.
func (c Container) spec(i image) specs.Spec {
	env := map[string]string{}
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			env[name] = value
		}
	}
	for _, variable := range i.config.Env {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	maps.Copy(env, c.Env)
	var environ []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		environ = append(environ, name+"="+env[name])
	}
	dir := i.config.WorkingDir
	if dir == "" {
		dir = "/"
	}
	s := specs.Spec{
		Version:  "1.0.2", // that of runc 1.1
		Hostname: "stepwright",
		Root:     &specs.Root{Path: i.root, Readonly: c.ReadOnlyRoot},
		Process: &specs.Process{
			User: specs.User{UID: c.User, GID: c.Group}, Args: c.Args, Env: environ, Cwd: dir,
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: c.NoNewRights,
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts",
				Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
				Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue",
				Options: []string{"nosuid", "noexec", "nodev"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats",
				"/proc/sched_debug", "/proc/scsi",
			},
			ReadonlyPaths: []string{
				"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
			},
		},
	}
	for _, file := range []string{"/etc/resolv.conf", "/etc/hosts"} {
		if _, err := os.Stat(file); err == nil {
			s.Mounts = append(s.Mounts, bind(Mount{Path: file, Source: file, ReadOnly: true}))
		}
	}
	for _, m := range c.Mounts {
		s.Mounts = append(s.Mounts, bind(m))
	}
	return s
}

func bind(m Mount) specs.Mount {
	if m.Source == "" {
		return specs.Mount{Destination: m.Path, Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", "mode=755", "size=1m"}}
	}
	options := []string{"rbind", "nosuid", "nodev"}
	if m.ReadOnly {
		options = append(options, "ro")
	}
	return specs.Mount{Destination: m.Path, Type: "bind", Source: m.Source, Options: options}
}
