package soaktest

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"
)

// A Machine is what processes of one PID namespace see of it. It needs Linux, and root for processes of others.
type Machine struct {
	Proc, Sys string // empty: /proc and /sys
}

// A Process is one that runs.
type Process struct {
	PID, Parent int
	Name        string   // of its program's file
	Args        []string // the program first
	Resident    float64  // MiB
	Descriptors int      // open ones
	Ended       bool     // and nobody has asked how: a zombie
}

func (m Machine) proc() string { return cmp.Or(m.Proc, procfs.DefaultMountPoint) }

// Processes lists all. Those that end meanwhile are left out, and so are the kernel's own.
func (m Machine) Processes() ([]Process, error) {
	proc, err := procfs.NewFS(m.proc())
	if err != nil {
		return nil, err
	}
	found, err := proc.AllProcs()
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, f := range found {
		if p, ok := process(f); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

func process(of procfs.Proc) (Process, bool) {
	stat, err := of.Stat()
	if err != nil {
		return Process{}, false
	}
	p := Process{
		PID: of.PID, Parent: stat.PPID, Name: stat.Comm, Resident: float64(stat.ResidentMemory()) / (1 << 20),
		Ended: stat.State == "Z",
	}
	if p.Args, err = of.CmdLine(); err != nil || len(p.Args) == 0 && !p.Ended {
		return Process{}, false
	}
	if len(p.Args) > 0 {
		p.Name = filepath.Base(p.Args[0])
	}
	p.Descriptors, err = of.FileDescriptorsLen()
	return p, err == nil || p.Ended
}

// Mounts is how many mounts this process's namespace has.
func (m Machine) Mounts() (int, error) {
	content, err := os.ReadFile(filepath.Join(m.proc(), "self", "mountinfo"))
	return strings.Count(string(content), "\n"), err
}

// LoopDevices is how many of them have a file.
func (m Machine) LoopDevices() int { return m.count("block", "loop*", "loop", "backing_file") }

// Links is how many network links this process's namespace has.
func (m Machine) Links() int { return m.count("class", "net", "*") }

// count is how many files below /sys a pattern has.
func (m Machine) count(pattern ...string) int {
	if m.Sys == "" {
		m.Sys = "/sys"
	}
	found, _ := filepath.Glob(filepath.Join(append([]string{m.Sys}, pattern...)...))
	return len(found)
}

// Groups is how many control groups there are below one.
func Groups(dir string) int {
	var n int
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && path != dir {
			n++
		}
		return nil // it may be gone by now
	})
	return n
}

// Usage is what the files below a folder take of the disk, in MiB, and how many they are. A file with two names counts
// once, and what is mounted from another file system does not. A folder that is not there has nothing. What cannot be
// read below it is left out, for it may be gone by now.
func Usage(dir string) (mebi float64, files int, err error) {
	type inode struct{ device, number uint64 }
	seen := map[inode]bool{}
	var blocks int64
	var device uint64
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if path == dir && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it is gone
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		at := inode{uint64(stat.Dev), stat.Ino} //nolint:unconvert // of another type on other systems
		if path == dir {
			device = at.device
		}
		if at.device != device {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !seen[at] {
			seen[at] = true
			blocks += stat.Blocks
			files++
		}
		return nil
	})
	return float64(blocks) * 512 / (1 << 20), files, err
}
