package buildkit

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// runtimeName is the name by which the executable runs in place of runc: it changes what BuildKit told runc, and is
// runc then.
const runtimeName = "stepwright-runc"

// execRunc makes this process runc. It returns only when that fails.
func execRunc(args []string) error {
	if slices.Contains(args, "run") {
		at := slices.Index(args, "--bundle")
		if at < 0 || at+1 == len(args) {
			return fmt.Errorf("runc: no bundle: %q", args)
		}
		if err := amend(filepath.Join(args[at+1], "config.json")); err != nil {
			return fmt.Errorf("runc: %w", err)
		}
	}
	path, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return syscall.Exec(path, append([]string{"runc"}, args...), os.Environ())
}

// amend changes a bundle's configuration, a file, to what BuildKit has no options for.
func amend(file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return err
	}
	// A path that is not absolute is below the cgroup of the process that calls runc, in each of version 1's
	// hierarchies: the limits of the step are those of a RUN, too. One folder leaves none behind.
	spec.Linux.CgroupsPath = strings.ReplaceAll(strings.Trim(spec.Linux.CgroupsPath, "/"), "/", "-")
	if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace
	}) {
		spec.Linux.Namespaces = append(
			spec.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.PIDNamespace}, specs.LinuxNamespace{Type: specs.UserNamespace},
		)
		if spec.Linux.UIDMappings, err = identity("/proc/self/uid_map"); err != nil {
			return err
		}
		if spec.Linux.GIDMappings, err = identity("/proc/self/gid_map"); err != nil {
			return err
		}
	}
	if raw, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o600)
}

// identity maps each id of this namespace, whose uid_map or gid_map the file is, to itself.
func identity(file string) ([]specs.LinuxIDMapping, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var ids []specs.LinuxIDMapping
	// The kernel takes no range that spans two of its parent's.
	for line := range strings.Lines(string(raw)) {
		var first, outside, count uint32
		if _, err := fmt.Sscan(line, &first, &outside, &count); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		ids = append(ids, specs.LinuxIDMapping{ContainerID: first, HostID: first, Size: count})
	}
	return ids, nil
}
