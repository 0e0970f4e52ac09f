// Package userns starts a program as the root of a user namespace of its own, from a process that is not root: what a
// container builder needs to mount file systems and to give files to other users, without a privilege outside of that
// namespace.
package userns

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Mapping is which users and groups of this namespace a new one has. Its root is this process's own user.
type Mapping struct {
	UIDs, GIDs []syscall.SysProcIDMap
	helpers    bool // newuidmap and newgidmap must write the maps: this process may not
}

// most is how many ids besides root's a new namespace gets at most: all that Kubernetes and OpenShift give to users.
const most = math.MaxInt32

// The ids that a new namespace gets first, where this one has them: no account of a machine has them.
const (
	// preferred is the first of ordinary, which are all that an ordinary image knows.
	preferred, ordinary = 100000, 65536
	// beyond is the first of those for all other images. Neither Kubernetes, which counts in 31 bits, nor a range of
	// /etc/subuid, of systemd or of a pod with a user namespace reaches it: no process of the node has such an id.
	beyond = 1 << 31
)

// fewest is how many it must get at least. With less, chown and useradd of a Dockerfile fail, and some do so silently.
const fewest = 1000

// Find returns the mapping that this process may use: directly with CAP_SETUID and CAP_SETGID, or else through
// newuidmap and newgidmap with the ranges that /etc/subuid and /etc/subgid give its user. Where neither is possible, a
// BuilderUnavailable says what to do.
func Find() (Mapping, error) {
	uid, gid := os.Getuid(), os.Getgid()
	if HasCapabilities(unix.CAP_SETUID, unix.CAP_SETGID) {
		uids, err := direct("/proc/self/uid_map", uid)
		if err != nil {
			return Mapping{}, err
		}
		gids, err := direct("/proc/self/gid_map", gid)
		return Mapping{UIDs: uids, GIDs: gids}, err
	}
	lacking := func(what string) error {
		return outcome.Errorf(
			outcome.BuilderUnavailable,
			"cannot build as user %d: the process has not the capabilities SETUID and SETGID, and %s", uid, what,
		).
			WithHint(advice())
	}
	for _, helper := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(helper); err != nil {
			return Mapping{}, lacking(helper + " is not installed")
		}
	}
	uids, err := delegated("/etc/subuid", uid, uid)
	if err != nil {
		return Mapping{}, lacking(err.Error())
	}
	gids, err := delegated("/etc/subgid", uid, gid)
	if err != nil {
		return Mapping{}, lacking(err.Error())
	}
	return Mapping{UIDs: uids, GIDs: gids, helpers: true}, nil
}

func advice() string {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return fmt.Sprintf("Either run `setcap cap_setuid,cap_setgid+p %s` and add the capabilities SETUID and SETGID to "+
		"the pod; "+
		"or install uidmap and give the user ranges in /etc/subuid and /etc/subgid; or let a daemon build: "+
		"buildkit-address.", self)
}

// HasCapabilities tells whether all of these capabilities (unix.CAP_…) are permitted.
func HasCapabilities(caps ...int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Permitted&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

// raise puts permitted capabilities into effect for the calling thread.
func raise(caps ...int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	for _, c := range caps {
		data[c/32].Effective |= 1 << (c % 32)
	}
	return unix.Capset(&header, &data[0])
}

// span is a range of ids.
type span struct{ first, count int }

// direct maps root to own, and the others to ids that exist in this namespace (the file is its uid_map or gid_map).
func direct(file string, own int) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "user namespace: %w", err)
	}
	defer f.Close()
	spans, err := parseMap(f)
	if err != nil {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "user namespace: %s: %w", file, err)
	}
	ids := inNamespace(own, spans)
	if ids == nil {
		return nil, outcome.Errorf(
			outcome.BuilderUnavailable, "cannot build as user or group %d: %s has fewer than %d others", own, file,
			fewest,
		).
			WithHint("Give the pod's user namespace more ids, or let a daemon build: buildkit-address.")
	}
	return ids, nil
}

// parseMap reads what ids a namespace has from its uid_map or gid_map: lines of first id inside, first id outside,
// count.
func parseMap(r io.Reader) ([]span, error) {
	var spans []span
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		var s span
		var outside int
		if _, err := fmt.Sscan(lines.Text(), &s.first, &outside, &s.count); err != nil {
			return nil, err
		}
		spans = append(spans, s)
	}
	return spans, lines.Err()
}

// inNamespace maps root to own, and the others to ids of this namespace, which has spans: to those that no account has
// where it can.
func inNamespace(own int, spans []span) []syscall.SysProcIDMap {
	if ids := mapped(own, apart(own, spans)); ids != nil {
		return ids
	}
	return compose(own, spans)
}

// compose maps root to own, and the ids from 1 to those of spans, but never to own again, and not to root: that would
// take another capability. It returns nil when there are too few.
func compose(own int, spans []span) []syscall.SysProcIDMap {
	var free []span
	for _, s := range spans {
		free = append(free, s.without(0, own)...)
	}
	// The largest first: it holds the most of the low ids, which images use.
	slices.SortStableFunc(free, func(a, b span) int { return b.count - a.count })
	return mapped(own, free)
}

// mapped maps root to own, and the ids from 1 to those of spans, in their order, or returns nil when there are too few.
func mapped(own int, free []span) []syscall.SysProcIDMap {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: own, Size: 1}}
	next := 1
	for _, s := range free {
		if n := min(s.count, most+1-next); n > 0 {
			ids = append(ids, syscall.SysProcIDMap{ContainerID: next, HostID: s.first, Size: n})
			next += n
		}
	}
	if next-1 < fewest {
		return nil
	}
	return ids
}

// apart returns those ids of a namespace, which has spans, that no account has; nil where it has not all that are
// ordinary of them.
func apart(own int, spans []span) []span {
	for _, s := range spans {
		end := s.first + s.count
		if s.first > preferred || end < preferred+ordinary || own >= preferred && own < preferred+ordinary {
			continue
		}
		rest := beyond
		if end <= beyond { // a user namespace, whose own accounts are below
			rest = preferred + ordinary
		}
		return append([]span{{preferred, ordinary}}, span{rest, end - rest}.without(own)...)
	}
	return nil
}

// without returns what is left of a range without these ids, given in ascending order.
func (s span) without(taken ...int) []span {
	var left []span
	start, end := s.first, s.first+s.count
	for _, id := range taken {
		if id < start || id >= end {
			continue
		}
		left = append(left, span{start, id - start})
		start = id + 1
	}
	return append(left, span{start, end - start})
}

// delegated maps root to own, and the others to what a file such as /etc/subuid gives the user.
func delegated(file string, uid, own int) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s", file)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names := []string{strconv.Itoa(uid)}
	if u, err := user.LookupId(names[0]); err == nil {
		names = append(names, u.Username)
	}
	if ids := compose(own, parseSubordinate(f, names)); ids != nil {
		return ids, nil
	}
	return nil, fmt.Errorf("%s gives user %s fewer than %d ids", file, strings.Join(names, ", "), fewest)
}

// parseSubordinate reads lines of user:first:count; those of other users and those that are no such line are passed
// over, as newuidmap does.
func parseSubordinate(r io.Reader, names []string) []span {
	var spans []span
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || !slices.Contains(names, fields[0]) {
			continue
		}
		first, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 == nil && err2 == nil && first > 0 && count > 0 {
			spans = append(spans, span{first, count})
		}
	}
	return spans
}

// IDs are the users and groups that exist in this process's user namespace.
type IDs struct{ users, groups []span }

// Here returns those of this process.
func Here() (IDs, error) {
	var ids IDs
	for file, spans := range map[string]*[]span{
		"/proc/self/uid_map": &ids.users, "/proc/self/gid_map": &ids.groups,
	} {
		f, err := os.Open(file)
		if err != nil {
			return IDs{}, err
		}
		*spans, err = parseMap(f)
		f.Close()
		if err != nil {
			return IDs{}, fmt.Errorf("%s: %w", file, err)
		}
	}
	return ids, nil
}

// Lacks says which of a user and a group is none of these, as "user 70000" or "group 70000"; empty: both exist.
func (i IDs) Lacks(uid, gid int) string {
	has := func(spans []span, id int) bool {
		return slices.ContainsFunc(spans, func(s span) bool { return id >= s.first && id < s.first+s.count })
	}
	switch {
	case !has(i.users, uid):
		return fmt.Sprintf("user %d", uid)
	case !has(i.groups, gid):
		return fmt.Sprintf("group %d", gid)
	}
	return ""
}

// String says how many users and groups there are.
func (i IDs) String() string {
	last := func(spans []span) (id int) {
		for _, s := range spans {
			id = max(id, s.first+s.count-1)
		}
		return id
	}
	return fmt.Sprintf("users from 0 to %d and groups from 0 to %d", last(i.users), last(i.groups))
}

// await, as an argument, tells a program started by Start to wait for its maps: Await.
const await = "await-id-maps"

// Start starts a command, which must be this executable, in namespaces for users and mounts of its own. The program
// must call Await before anything else.
func (m Mapping) Start(cmd *exec.Cmd) error {
	// Capabilities from the file make a process undumpable, and its maps are root's alone then. Afterwards it is that
	// again: what the builder runs has the same user, to which the files of /proc are closed then.
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return err
	}
	if before != 1 {
		defer unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	if !m.helpers {
		// The file's capabilities are only permitted: with any in effect it would not start in a pod without them,
		// which lets a daemon build. They count for the thread that writes the maps.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := raise(unix.CAP_SETUID, unix.CAP_SETGID); err != nil {
			return fmt.Errorf("put the capabilities SETUID and SETGID into effect: %w", err)
		}
		cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = m.UIDs, m.GIDs
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		return explain(cmd.Start())
	}
	wait, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wait.Close()
	defer release.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, wait)
	cmd.Args = append(cmd.Args, await, strconv.Itoa(2+len(cmd.ExtraFiles)))
	if err := explain(cmd.Start()); err != nil {
		return err
	}
	err = errors.Join(writeMap("newuidmap", cmd.Process.Pid, m.UIDs), writeMap("newgidmap", cmd.Process.Pid, m.GIDs))
	if err == nil {
		_, err = release.Write([]byte{1})
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
	}
	return err
}

// explain makes a message of what clone answers where namespaces are not allowed. It does not wrap: ENOSPC, the answer
// where their number is limited to none, says nothing about a disk.
func explain(err error) error {
	if err == nil {
		return nil
	}
	return outcome.Errorf(outcome.BuilderUnavailable, "cannot make a user namespace: %v", err).
		WithHint("The pod's seccomp or AppArmor profile, or the node's user.max_user_namespaces, forbids it: allow " +
			"it, or let a daemon build: buildkit-address.")
}

func writeMap(helper string, pid int, ids []syscall.SysProcIDMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range ids {
		args = append(args, strconv.Itoa(m.ContainerID), strconv.Itoa(m.HostID), strconv.Itoa(m.Size))
	}
	if out, err := exec.Command(helper, args...).CombinedOutput(); err != nil {
		return outcome.Errorf(
			outcome.BuilderUnavailable, "%s: %w: %s", helper, err, strings.TrimSpace(string(out)),
		).WithHint(
			advice(),
		)
	}
	return nil
}

// Await returns in a program started by Start once it is root of its namespaces, and keeps its mounts to itself.
func Await() error {
	if n := len(os.Args); n >= 3 && os.Args[n-2] == await {
		fd, err := strconv.Atoi(os.Args[n-1])
		if err != nil {
			return err
		}
		var b [1]byte
		if _, err := os.NewFile(uintptr(fd), await).Read(b[:]); err != nil {
			return fmt.Errorf("no id maps: %w", err)
		}
		// This process started as nobody in particular; a program that the namespace's root executes gets its
		// capabilities.
		return syscall.Exec("/proc/self/exe", os.Args[:n-2], os.Environ())
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}
