package soaktest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

func (m Machine) proc(parts ...string) string {
	if m.Proc == "" {
		m.Proc = "/proc"
	}
	return filepath.Join(append([]string{m.Proc}, parts...)...)
}

// Processes lists all. Those that end meanwhile are left out, and so are the kernel's own.
func (m Machine) Processes() ([]Process, error) {
	entries, err := os.ReadDir(m.proc())
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := m.process(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

func (m Machine) process(pid int) (Process, bool) {
	name := strconv.Itoa(pid)
	stat, err := os.ReadFile(m.proc(name, "stat"))
	if err != nil {
		return Process{}, false
	}
	// The name in brackets may have blanks and brackets of its own.
	opened, closed := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if opened < 0 || closed < opened {
		return Process{}, false
	}
	fields := strings.Fields(string(stat[closed+1:]))
	if len(fields) < 22 {
		return Process{}, false
	}
	p := Process{PID: pid, Name: string(stat[opened+1 : closed]), Ended: fields[0] == "Z"}
	p.Parent, _ = strconv.Atoi(fields[1])
	pages, _ := strconv.ParseFloat(fields[21], 64)
	p.Resident = pages * float64(os.Getpagesize()) / (1 << 20)
	command, err := os.ReadFile(m.proc(name, "cmdline"))
	if err != nil || len(command) == 0 && !p.Ended {
		return Process{}, false
	}
	if len(command) > 0 {
		p.Args = strings.Split(strings.TrimRight(string(command), "\x00"), "\x00")
		p.Name = filepath.Base(p.Args[0])
	}
	open, err := os.ReadDir(m.proc(name, "fd"))
	p.Descriptors = len(open)
	return p, err == nil || p.Ended
}

// Mounts is how many mounts this process's namespace has.
func (m Machine) Mounts() (int, error) {
	content, err := os.ReadFile(m.proc("self", "mountinfo"))
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
