package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/ci/cluster/programs"
)

// Ready is the last line that a node says of its start.
const Ready = "ready"

// Start starts the node: program `init` of this executable in namespaces of its own. Every line that it says of its
// progress goes to say. It returns when the node is ready, and ends it when that fails.
func (s State) Start(ctx context.Context, c Config, say func(string)) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("namespaces, mounts and cgroups need root: run this as root")
	}
	for _, dir := range []string{"bin", "log", "kubeconfig"} {
		if err := os.MkdirAll(s.Path(dir), 0o755); err != nil {
			return err
		}
	}
	// go run removes the executable when it ends.
	if err := copyExecutable(s.Program()); err != nil {
		return err
	}
	c.Sysctls = map[string]string{}
	for _, file := range HostSettings {
		if value, err := os.ReadFile(file); err == nil {
			c.Sysctls[file] = string(value)
		}
	}
	for _, other := range s.beside() {
		maps.Copy(c.Sysctls, other.Sysctls) // as they were before it was started
	}
	if err := s.writeConfig(c); err != nil {
		return err
	}
	log, err := os.Create(s.Log("node"))
	if err != nil {
		return err
	}
	defer log.Close()
	progress, said, err := os.Pipe()
	if err != nil {
		return err
	}
	defer progress.Close()
	begin, begun, err := os.Pipe()
	if err != nil {
		return err
	}
	defer begun.Close()

	cmd := exec.Command(s.Program(), "--state", s.Dir, "init")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{said, begin}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
	}
	err = cmd.Start()
	said.Close()
	begin.Close()
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	defer func() {
		if err != nil {
			cmd.Process.Kill()
			<-ended
		}
	}()
	// It waits for the line, and ends where this program ends before: nobody would know of it.
	if err := s.writePID(cmd.Process.Pid); err != nil {
		return err
	}
	if _, err := begun.WriteString("begin\n"); err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(progress); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case line, more := <-lines:
			switch {
			case !more:
				return fmt.Errorf(
					"the node ended before it was ready; %s says:\n%s", s.Log("node"), tail(s.Log("node"), 20),
				)
			case line == Ready:
				return nil
			}
			say(line)
		}
	}
}

// Init is the first process in the namespaces. It starts program `node` and reaps orphans. When it ends, all
// ends.
func (s State) Init() error {
	progress, begin := os.NewFile(3, "progress"), os.NewFile(4, "begin")
	if line, err := io.ReadAll(io.LimitReader(begin, 1)); err != nil || len(line) == 0 {
		return errors.New("whoever started this has gone")
	}
	cmd := exec.Command(s.Program(), "--state", s.Dir, "node")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{progress}
	if err := cmd.Start(); err != nil {
		return err
	}
	progress.Close()
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, 0, nil); {
		case err == syscall.EINTR:
		case err != nil:
			return err
		case pid == cmd.Process.Pid:
			return fmt.Errorf("the node ended: status %d", status)
		}
	}
}

// Enter runs a command in the namespaces, with this process's standard streams and signals. It returns an
// *exec.ExitError when the command fails.
func (s State) Enter(dir string, args ...string) error {
	pid, err := s.Running()
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("no cluster is up in %s: run make cluster-up", s.Dir)
	}
	config, err := s.ReadConfig()
	if err != nil {
		return err
	}
	// Namespaces are a thread's. This one never serves another goroutine: it is locked until the process ends.
	runtime.LockOSThread()
	var namespaces []*os.File
	for _, kind := range []string{"ipc", "uts", "net", "pid", "mnt"} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return err
		}
		defer file.Close()
		namespaces = append(namespaces, file)
	}
	// A thread that shares its root and working folder with others cannot change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the file system of other threads: %w", err)
	}
	for _, file := range namespaces {
		if err := unix.Setns(int(file.Fd()), 0); err != nil {
			return fmt.Errorf("enter %s: %w", file.Name(), err)
		}
	}
	return s.Run(config, dir, args...)
}

// Run runs a command where this process is, with the environment of the namespaces.
func (s State) Run(c Config, dir string, args ...string) error {
	s.Adopt(c)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			// An interrupt from a terminal has reached the command already, which is in the same process group.
			if s != os.Interrupt {
				cmd.Process.Signal(s)
			}
		}
	}()
	return cmd.Wait()
}

// Adopt gives this process, and so all that it starts, the environment of the namespaces: the cluster's programs are
// first on the PATH, kubectl finds the cluster, and there is no proxy, which would not be reachable.
func (s State) Adopt(c Config) {
	for _, proxy := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		os.Unsetenv(proxy)
		os.Unsetenv(strings.ToLower(proxy))
	}
	path := []string{os.Getenv("PATH"), "/usr/local/sbin", "/usr/sbin", "/sbin"}
	if c.Programs != (programs.Set{}) {
		path = append([]string{s.Path("bin"), c.Programs.Path()}, path...)
	}
	os.Setenv("PATH", strings.Join(path, string(filepath.ListSeparator)))
	os.Setenv("KUBECONFIG", s.Kubeconfig("admin"))
	os.Setenv(StateVariable, s.Dir)
}

// Down ends the node, removes its control groups and its folder, and puts the machine's settings back. It may be
// repeated.
func (s State) Down() error {
	pid, err := s.Running()
	if err != nil {
		return err
	}
	if pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		// The kernel ends the other processes of the namespaces before it ends their first process.
		if err := within(30*time.Second, func() bool {
			now, err := s.Running()
			return now == 0 && err == nil
		}); err != nil {
			return fmt.Errorf("process %d does not end", pid)
		}
	}
	// The last cluster puts the settings back: another one needs them as they are.
	if config, err := s.ReadConfig(); err == nil && len(s.beside()) == 0 {
		for file, value := range config.Sysctls {
			if now, err := os.ReadFile(file); err == nil && string(now) != value {
				if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
					return err
				}
			}
		}
	}
	if err := s.removeCgroups(); err != nil {
		return err
	}
	return os.RemoveAll(s.Dir)
}

// beside is the configurations of clusters that run and have their folders beside this one.
func (s State) beside() []Config {
	// The pattern is a good one.
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(s.Dir), "*", configName))
	var configs []Config
	for _, file := range files {
		other := State{filepath.Dir(file)}
		if other.Dir == s.Dir {
			continue
		}
		if pid, err := other.Running(); err != nil || pid == 0 {
			continue
		}
		if config, err := other.ReadConfig(); err == nil {
			configs = append(configs, config)
		}
	}
	return configs
}

// within polls until something is so.
func within(limit time.Duration, so func() bool) error {
	for deadline := time.Now().Add(limit); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	return nil
}

func copyExecutable(to string) (err error) {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}

// cgroupDirs are the folders of the cluster's control groups: one in each hierarchy of version 1, one in all of version
// 2.
func (s State) cgroupDirs() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{filepath.Join("/sys/fs/cgroup", s.Cgroup())}
	}
	// Two names of one hierarchy are a folder and a link to it.
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	var dirs []string
	for _, entry := range entries {
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join("/sys/fs/cgroup", entry.Name(), s.Cgroup()))
		}
	}
	return dirs
}

// makeCgroups makes the parents of the pods' control groups.
func (s State) makeCgroups() error {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return s.makeCgroupV2()
	}
	for _, dir := range s.cgroupDirs() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			if errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EPERM) {
				continue // not one that a kubelet may use
			}
			return err
		}
		// A new group has no processors and no memory until it is told which.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s State) makeCgroupV2() error {
	const root = "/sys/fs/cgroup"
	dir := filepath.Join(root, s.Cgroup())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, parent := range []string{root, dir} {
		for controller := range strings.FieldsSeq(string(controllers)) {
			if err := os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+"+
				controller), 0o644); err != nil && (controller == "cpu" || controller == "memory" ||
				controller == "pids") {
				return fmt.Errorf("let %s hand out %s: %w", parent, controller, err)
			}
		}
	}
	return nil
}

// engineCgroups are the control groups of the containers of an engine that was in the namespaces.
func (s State) engineCgroups() ([]string, error) {
	content, err := os.ReadFile(s.Path("containers", "storage", "overlay-containers", "containers.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var containers []struct{ ID string }
	if err := json.Unmarshal(content, &containers); err != nil {
		return nil, err
	}
	var dirs []string
	for _, container := range containers {
		for _, parent := range engineParents {
			found, err := filepath.Glob(parent + "/libpod-*" + container.ID + "*")
			if err != nil {
				return nil, err
			}
			dirs = append(dirs, found...)
		}
	}
	return dirs, nil
}

// engineParents are the parents of all control groups of podman's containers, in hierarchies of version 1 and 2.
var engineParents = []string{"/sys/fs/cgroup/*/libpod_parent", "/sys/fs/cgroup/libpod_parent"}

func (s State) removeCgroups() error {
	engine, err := s.engineCgroups()
	if err != nil {
		return err
	}
	for _, dir := range slices.Concat(s.cgroupDirs(), engine) {
		// The kernel needs a moment after the last process of a group has ended.
		if err := within(10*time.Second, func() bool {
			var groups []string
			filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					groups = append(groups, path)
				}
				return nil
			})
			for i := len(groups) - 1; i >= 0; i-- {
				os.Remove(groups[i])
			}
			_, err := os.Stat(dir)
			return errors.Is(err, fs.ErrNotExist)
		}); err != nil {
			return fmt.Errorf("control group %s is still in use", dir)
		}
	}
	if _, err := os.Stat(s.Path("containers")); err == nil {
		for _, pattern := range engineParents {
			parents, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			for _, parent := range parents {
				// Unless another podman has containers.
				_ = os.Remove(filepath.Join(parent, "conmon"))
				_ = os.Remove(parent)
			}
		}
	}
	return nil
}
