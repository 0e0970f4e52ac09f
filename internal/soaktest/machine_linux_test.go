package soaktest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A process is seen with its memory and its open files, and when it has ended until it is waited for.
func TestProcesses(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "sleep", "600")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	find := func() Process {
		all, err := Machine{}.Processes()
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(p Process) bool { return p.PID == command.Process.Pid })
		if i < 0 {
			return Process{}
		}
		return all[i]
	}
	p := find()
	if p.Name != "sleep" || p.Parent != os.Getpid() || p.Resident <= 0 || p.Resident > 100 || p.Descriptors < 3 ||
		p.Ended || !slices.Equal(p.Args, []string{"sleep", "600"}) {
		t.Errorf("%+v", p)
	}
	command.Process.Kill()
	for deadline := time.Now().Add(10 * time.Second); !find().Ended; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it has not ended: %+v", find())
		}
	}
	command.Wait()
	if p := find(); p.PID != 0 {
		t.Errorf("it is still there: %+v", p)
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// What nobody here reads of proc(5), stat.
	const rest = " 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
	for file, content := range map[string]string{
		"proc/self/mountinfo":                "1\n2\n",
		"proc/7/stat":                        "7 (a (b) c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 100 256" + rest,
		"proc/7/cmdline":                     "/bin/a (b) c\x00-x\x00",
		"proc/7/fd/0":                        "",
		"proc/8/stat":                        "8 (kthreadd) S 0 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0" + rest,
		"proc/8/cmdline":                     "",
		"sys/block/loop0/loop/backing_file":  "/a\n",
		"sys/block/loop1/size":               "0\n",
		"sys/class/net/lo/address":           "",
		"groups/pods/pod1/container/cgroups": "",
	} {
		path := filepath.Join(dir, file)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	m := Machine{Proc: filepath.Join(dir, "proc"), Sys: filepath.Join(dir, "sys")}
	all, err := m.Processes()
	if err != nil || len(all) != 1 || all[0].Name != "a (b) c" || all[0].Parent != 1 || all[0].Descriptors != 1 ||
		all[0].Resident != 256*float64(os.Getpagesize())/(1<<20) {
		t.Errorf("%+v, %v", all, err)
	}
	if n, err := m.Mounts(); n != 2 || err != nil {
		t.Errorf("%d mounts, %v", n, err)
	}
	if loops, links := m.LoopDevices(), m.Links(); loops != 1 || links != 1 {
		t.Errorf("%d loop devices, %d links", loops, links)
	}
	if n := Groups(filepath.Join(dir, "groups")); n != 3 {
		t.Errorf("%d groups", n)
	}
	if n := Groups(filepath.Join(dir, "absent")); n != 0 {
		t.Errorf("%d groups of none", n)
	}
}

// A file with two names takes its place once.
func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := filepath.Join(dir, "one")
	err := errors.Join(
		os.WriteFile(one, make([]byte, 4<<20), 0o644), os.Mkdir(filepath.Join(dir, "sub"), 0o755),
		os.Link(one, filepath.Join(dir, "sub", "two")),
	)
	if err != nil {
		t.Fatal(err)
	}
	mebi, files, err := Usage(dir)
	if err != nil || files != 3 || mebi < 4 || mebi > 4.1 {
		t.Errorf("%v MiB in %d files, %v", mebi, files, err)
	}
	if mebi, files, err := Usage(filepath.Join(dir, "absent")); err != nil || files != 0 || mebi != 0 {
		t.Errorf("%v MiB in %d files of none, %v", mebi, files, err)
	}
}
