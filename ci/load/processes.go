package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// usage is what a program's processes have used.
type usage struct {
	CPU time.Duration
	RSS int64 // bytes
	PID int   // of one of them
}

// programs are those that are measured, by the names of their files.
var programs = []string{
	argoProgram, "manager", "cluster-agent", "cluster-gateway", "external-secrets", "kube-apiserver", "etcd",
	"kube-scheduler", "kube-controller-manager", "kwok",
}

const argoProgram = "workflow-controller"

// ticks is how many of the kernel's clock ticks are a second: USER_HZ, which is 100 on every architecture of ours.
const ticks = 100

// usages reads what programs have used from a folder such as /proc.
func usages(proc string, names []string) (map[string]usage, error) {
	all := map[string]usage{}
	dirs, err := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		name, u, err := process(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errEnded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, wanted := range names {
			if name == wanted {
				sum := all[name]
				sum.CPU, sum.RSS, sum.PID = sum.CPU+u.CPU, sum.RSS+u.RSS, u.PID
				all[name] = sum
			}
		}
	}
	return all, nil
}

var errEnded = errors.New("the process has ended")

func process(dir string) (name string, u usage, err error) {
	line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return "", u, errEnded // ESRCH, too
	}
	first, _, _ := strings.Cut(string(line), "\x00")
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return "", u, errEnded
	}
	// The name in parentheses may have spaces. What follows begins with the third field.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 22 {
		return "", u, fmt.Errorf("%s/stat has %d fields", dir, len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	pid, err4 := strconv.Atoi(filepath.Base(dir))
	u.CPU = time.Duration(user+system) * time.Second / ticks
	u.RSS, u.PID = pages*int64(os.Getpagesize()), pid
	return filepath.Base(first), u, errors.Join(err1, err2, err3, err4)
}
