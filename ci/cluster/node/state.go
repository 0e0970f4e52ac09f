// Package node is the machine that a cluster runs on: namespaces of its own with a network, mounts and cgroups, and the
// processes in them.
package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/stepwright/stepwright/ci/cluster/programs"
	"github.com/stepwright/stepwright/internal/filelock"
)

// Names and addresses inside the namespaces. Nothing of them reaches the machine's own network.
const (
	Name     = "stepwright"
	Address  = "10.88.0.1" // of the node, on a bridge of its own
	Pods     = "10.89.0.0/24"
	Services = "10.96.0.0/16"
	API      = "10.96.0.1"  // service kubernetes
	DNS      = "10.96.0.10" // service kube-dns
	Kubelet  = "/var/lib/kubelet"
	Domain   = "stepwright.test"
	Registry = "registry." + Domain + ":5000"
)

// HostSettings are the machine's settings that a kubelet changes, for which there are no namespaces. Down puts them
// back.
var HostSettings = []string{
	"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/panic",
	"/proc/sys/kernel/panic_on_oops",
	"/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes",
}

// StateVariable names the environment variable with the state's folder, which only processes in the namespaces have.
const StateVariable = "STEPWRIGHT_CLUSTER"

// State is the folder with all that a running cluster keeps.
type State struct{ Dir string }

// DefaultDir is the folder of the cluster that this process is in, or one in the user's cache folder.
func DefaultDir() string {
	if dir := os.Getenv(StateVariable); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "stepwright", "cluster", "state")
}

// Path is a file's in the folder.
func (s State) Path(parts ...string) string {
	return filepath.Join(append([]string{s.Dir}, parts...)...)
}

// Kubeconfig is the file with which somebody calls the API server: admin, or a component.
func (s State) Kubeconfig(who string) string { return s.Path("kubeconfig", who) }

// Program is this program, as it was when the cluster was started.
func (s State) Program() string { return s.Path("bin", "cluster") }

// Log is the file with a process's output.
func (s State) Log(process string) string { return s.Path("log", process+".log") }

// Cgroup is the parent of all pods' control groups, in each hierarchy.
func (s State) Cgroup() string {
	sum := sha256.Sum256([]byte(s.Dir))
	return "stepwright-" + hex.EncodeToString(sum[:4])
}

// A Config is what the node needs to know of the machine.
type Config struct {
	Programs programs.Set
	Sysctls  map[string]string // values of the machine's own settings that a kubelet changes, by file
}

// configName is the file in the state with its configuration.
const configName = "config.json"

// ReadConfig reads the configuration that the cluster was started with.
func (s State) ReadConfig() (Config, error) {
	var c Config
	content, err := os.ReadFile(s.Path(configName))
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(content, &c)
}

func (s State) writeConfig(c Config) error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.Path(configName), content, 0o644)
}

// Lock waits until nobody else starts a cluster here. The lock is the folder's above, so that no file is left.
func (s State) Lock(ctx context.Context) (unlock func(), err error) {
	above := filepath.Dir(s.Dir)
	if err := os.MkdirAll(above, 0o755); err != nil {
		return nil, err
	}
	return filelock.Exclusive(ctx, above)
}

// Running returns the process whose end is the cluster's, or 0 when there is none.
func (s State) Running() (int, error) {
	content, err := os.ReadFile(s.Path("init.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	number, started, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.Path("init.pid"), err)
	}
	// The kernel gives the number of a process that has ended to another one.
	if now, err := startTime(pid); err != nil || now != started {
		return 0, nil
	}
	return pid, nil
}

func (s State) writePID(pid int) error {
	started, err := startTime(pid)
	if err != nil {
		return err
	}
	return os.WriteFile(s.Path("init.pid"), fmt.Appendf(nil, "%d %s\n", pid, started), 0o644)
}

// startTime tells processes of one number apart: when it started, in ticks since the machine did. A process that has
// ended has none, even where nobody has asked for its exit status yet.
func startTime(pid int) (string, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The name in parentheses may have spaces. What follows begins with the third field.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", fs.ErrNotExist
	}
	return fields[19], nil
}
