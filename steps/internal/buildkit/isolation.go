package buildkit

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Isolation is how the processes of one RUN are kept from all others. In each way a RUN has a PID namespace of its
// own: it can signal nothing outside, and all that it started ends with its first process.
type Isolation string

const (
	// OwnProc is the better way. The builder is the first process of a PID namespace, so that the kernel ends every
	// RUN when it ends, however it ends; and every RUN has a /proc that shows its own processes only. The builder need
	// not wait for orphans, as such a process should: runc waits for what it starts, and a RUN has a first process of
	// its own.
	OwnProc Isolation = "own-proc"
	// SharedProc is for where the kernel lets no /proc be mounted: in a pod whose own has masked paths, as it has
	// unless its procMount is Unmasked. A RUN sees the pod's /proc, and there the names and command lines of others.
	// It has a user namespace of its own, too, with the builder's ids: to the kernel, memory, environment, open files
	// and root directory of a process in another user namespace are nobody else's. What a builder that is killed
	// leaves behind ends with the container.
	SharedProc Isolation = "shared-proc"
)

// String says for the log what the isolation is.
func (i Isolation) String() string {
	if i == SharedProc {
		return "each RUN has a PID and a user namespace, and sees the names of the pod's processes: /proc is masked"
	}
	return "each RUN has a PID namespace and a /proc of its own"
}

// errMasked tells that the kernel lets no /proc be mounted here.
var errMasked = errors.New("/proc cannot be mounted")

// enter tries what the isolation needs. With OwnProc it has this process, the first one of a PID namespace, see that
// namespace in /proc.
func (i Isolation) enter() error {
	if i == SharedProc {
		return tryNamespaces()
	}
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return errMasked
	}
	return err
}

// probeName is the name by which the executable does nothing.
const probeName = "stepwright-probe"

// tryNamespaces makes the namespaces that a RUN has with SharedProc, once.
func tryNamespaces() error {
	uids, err := identity("/proc/self/uid_map")
	if err != nil {
		return err
	}
	gids, err := identity("/proc/self/gid_map")
	if err != nil {
		return err
	}
	mapped := func(ids []specs.LinuxIDMapping) (all []syscall.SysProcIDMap) {
		for _, id := range ids {
			all = append(all, syscall.SysProcIDMap{
				ContainerID: int(id.ContainerID), HostID: int(id.HostID), Size: int(id.Size),
			})
		}
		return all
	}
	probe := &exec.Cmd{Path: "/proc/self/exe", Args: []string{probeName}, SysProcAttr: &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		UidMappings: mapped(uids), GidMappings: mapped(gids), GidMappingsEnableSetgroups: true,
	}}
	if err := probe.Run(); err != nil {
		return outcome.Errorf(
			outcome.BuilderUnavailable, "/proc is masked, and a RUN cannot get a user namespace of its own: %v", err,
		).WithHint("Give the pod hostUsers: false and procMount: Unmasked, raise the node's " +
			"user.max_user_namespaces, or let a daemon build: buildkit-address.")
	}
	return nil
}

// place returns where the builder has its state, a directory, and what undoes that. With SharedProc, that is a place
// whose parents anybody may search: in a user namespace of its own, runc gives up the groups by which the step may
// search those of a volume, and root there has no power over what belongs to users outside.
func (i Isolation) place(root string) (string, func() error, error) {
	nothing := func() error { return nil }
	if i != SharedProc {
		return root, nothing, nil
	}
	// None of these has anything for the builder, and no RUN sees them.
	for _, dir := range []string{"/dev/shm", "/mnt", "/media", "/srv"} {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		if err := unix.Mount(root, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return "", nil, outcome.Errorf(outcome.BuilderUnavailable, "bind %s to %s: %w", root, dir, err)
		}
		return dir, func() error { return unix.Unmount(dir, unix.MNT_DETACH) }, nil
	}
	return root, nothing, nil
}

// end ends all that the builder started, at once.
func (i Isolation) end() {
	if i == OwnProc {
		unix.Kill(-1, unix.SIGKILL) // this process is the namespace's first, and the only one that this spares
	}
}

// runtime is how BuildKit runs a RUN.
type runtime struct {
	rootless bool
	mode     oci.ProcessMode
	command  string // runc, or this executable in place of it
	cgroup   string // parent of each RUN's cgroup; empty where the command or the kernel sees to it
}

// runtime returns what has each RUN isolated like this, with what it needs in dir.
func (i Isolation) runtime(dir string) (runtime, error) {
	r := runtime{rootless: userns.RunningInUserNS(), mode: oci.ProcessSandbox, command: "runc"}
	if i == SharedProc {
		// BuildKit knows only two ways: a PID namespace and a /proc of its own, or neither. The other half of this
		// one is added to what runc is told.
		r.rootless, r.mode = true, oci.NoProcessSandbox
	}
	unified, own, err := ownCgroup()
	if err != nil {
		return runtime{}, err
	}
	switch {
	case i == SharedProc, !r.rootless && !unified:
		r.command = filepath.Join(dir, runtimeName)
		if err := os.Symlink("/proc/self/exe", r.command); err != nil && !errors.Is(err, os.ErrExist) {
			return runtime{}, err
		}
	case !r.rootless:
		r.cgroup = own
	}
	return r, nil
}

// ownCgroup tells whether cgroups are version 2 here, and where this process then is. BuildKit would give a RUN one
// beside it, and so without its limits.
func ownCgroup() (unified bool, path string, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return false, "", nil // not there at all: runc says what it thinks of that
	}
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return true, "", err
	}
	for line := range strings.Lines(string(raw)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return true, strings.TrimSpace(path), nil
		}
	}
	return true, "", fmt.Errorf("/proc/self/cgroup names no cgroup of version 2: %q", raw)
}
