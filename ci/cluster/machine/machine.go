// Package machine lists what a cluster could change of the machine that it is on. Two lists, of before a cluster was
// started and after it was ended, tell what it has left.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Inventory returns lines of text, sorted and each once: a kind of thing, such as mount or link, and one of them. It
// needs Linux and root. What this machine does not have, such as an engine for containers, has no lines.
func Inventory(ctx context.Context) ([]string, error) {
	all := inventory{}
	if err := errors.Join(all.mounts(), all.processes(), all.modules()); err != nil {
		return nil, err
	}
	all.settings()
	all.links()
	all.groups()
	all.files()
	all.rules(ctx)
	all.engines(ctx)
	lines := slices.Sorted(slices.Values(all.lines))
	return slices.Compact(lines), context.Cause(ctx)
}

type inventory struct{ lines []string }

func (i *inventory) add(kind string, of ...string) {
	line := kind + " " + strings.Join(of, " ")
	i.lines = append(i.lines, strings.Join(strings.Fields(line), " ")) // a command may be of several lines
}

// mounts lists the mounts of this process's namespace, by their place.
func (i *inventory) mounts() error {
	content, err := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(content)) {
		if fields := strings.Fields(line); len(fields) > 9 {
			_, of, _ := strings.Cut(line, " - ")
			i.add("mount", fields[4], strings.TrimSpace(of))
		}
	}
	return err
}

// processes lists the processes in namespaces of their own, and so all of a cluster. Their numbers are left out: the
// same program may have been restarted.
func (i *inventory) processes() error {
	own := map[string]string{}
	kinds := []string{"ipc", "mnt", "net", "pid", "uts", "user", "cgroup"}
	for _, kind := range kinds {
		own[kind], _ = os.Readlink("/proc/self/ns/" + kind)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		for _, kind := range kinds {
			namespace, err := os.Readlink(dir + "/ns/" + kind)
			if err != nil || namespace == own[kind] { // it may have ended
				continue
			}
			command, _ := os.ReadFile(dir + "/cmdline")
			i.add("process", strings.ReplaceAll(strings.TrimRight(string(command), "\x00"), "\x00", " "))
			break
		}
	}
	return err
}

func (i *inventory) modules() error {
	content, err := os.ReadFile("/proc/modules")
	if errors.Is(err, fs.ErrNotExist) { // the kernel has none
		return nil
	}
	for line := range strings.Lines(string(content)) {
		module, _, _ := strings.Cut(line, " ")
		i.add("module", module)
	}
	return err
}

// counters are settings that change by themselves.
var counters = regexp.MustCompile(`^/proc/sys/(` + strings.Join([]string{
	`fs/(aio-nr|dentry-state|file-nr|inode-nr|inode-state|quota/.*)`,
	`kernel/(ns_last_pid|perf_event_max_sample_rate|pty/nr|random/.*)`, `net/netfilter/nf_conntrack_count`,
	`net/ipv./(conf|neigh)/.*`, // but for those that last
	`net/mptcp/.*`, `vm/stat_refresh`,
}, "|") + `)$`)

// lasting are settings of all links, and of those to come. Those of one link come and go with it, which is listed.
var lasting = regexp.MustCompile(`^/proc/sys/net/ipv./(conf|neigh)/(all|default)/`)

func (i *inventory) settings() {
	// What cannot be read, such as a key that can only be written, is nobody's setting.
	_ = filepath.WalkDir("/proc/sys", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || counters.MatchString(path) && !lasting.MatchString(path) {
			return nil
		}
		if value, err := os.ReadFile(path); err == nil {
			i.add("setting", path, strings.TrimSpace(string(value)))
		}
		return nil
	})
}

// links lists network links, and the network namespaces that have names.
func (i *inventory) links() {
	for _, pattern := range []string{"/sys/class/net/*", "/run/netns/*"} {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			i.add("link", link)
		}
	}
}

// groups lists the control groups of every hierarchy.
func (i *inventory) groups() {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			i.add("cgroup", path)
		}
		return nil
	})
}

// files lists what programs for containers and clusters keep for a user or a machine, with sizes.
func (i *inventory) files() {
	roots := []string{
		"/etc", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods", "/run/netns",
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, folder := range []string{".kube", ".docker", ".config", ".local/share", ".cache/helm"} {
			roots = append(roots, filepath.Join(home, folder))
		}
	}
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if info, err := entry.Info(); err == nil && !entry.IsDir() {
				path = fmt.Sprintf("%s %d", path, info.Size())
			}
			i.add("file", path)
			return nil
		})
	}
}

// counted is how often a rule was used.
var counted = regexp.MustCompile(`\[\d+:\d+\]|counter packets \d+ bytes \d+`)

// rules lists what the firewall does, whichever program has said it, and the routes.
func (i *inventory) rules(ctx context.Context) {
	for _, command := range [][]string{
		{"iptables-save"}, {"ip6tables-save"}, {"iptables-legacy-save"}, {"ip6tables-legacy-save"},
		{"nft", "list", "ruleset"}, {"ip", "rule"}, {"ip", "route", "show", "table", "all"},
	} {
		i.printed(ctx, "rule", command...)
	}
}

// engines lists containers, images, volumes and networks.
func (i *inventory) engines(ctx context.Context) {
	for _, engine := range []string{"docker", "nerdctl", "finch", "podman"} {
		i.printed(ctx, "container", engine, "ps", "--all", "--format", "{{.Names}}")
		i.printed(ctx, "image", engine, "images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")
		i.printed(ctx, "volume", engine, "volume", "ls", "--format", "{{.Name}}")
		i.printed(ctx, "network", engine, "network", "ls", "--format", "{{.Name}}")
	}
}

// printed adds the lines that a program prints, if it is there and works.
func (i *inventory) printed(ctx context.Context, kind string, command ...string) {
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(counted.ReplaceAllString(string(out), "")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			i.add(kind, command[0]+":", line)
		}
	}
}
