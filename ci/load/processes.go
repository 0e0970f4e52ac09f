package main

import (
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/procfs"
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

// usages reads what programs have used from a folder such as /proc. A process that ends meanwhile is left out.
func usages(proc string, names []string) (map[string]usage, error) {
	files, err := procfs.NewFS(proc)
	if err != nil {
		return nil, err
	}
	processes, err := files.AllProcs()
	if err != nil {
		return nil, err
	}
	all := map[string]usage{}
	for _, p := range processes {
		args, err := p.CmdLine()
		if err != nil || len(args) == 0 {
			continue
		}
		name := filepath.Base(args[0])
		stat, err := p.Stat()
		if err != nil || !slices.Contains(names, name) {
			continue
		}
		sum := all[name]
		sum.CPU += time.Duration(stat.CPUTime() * float64(time.Second))
		sum.RSS += int64(stat.ResidentMemory())
		sum.PID = p.PID
		all[name] = sum
	}
	return all, nil
}
