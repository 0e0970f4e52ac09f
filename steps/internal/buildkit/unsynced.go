package buildkit

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A build of which nothing changed has BuildKit and containerd write to the disk, and wait for it, 300 times: several
// seconds where the disk is in a network, or busy. That keeps their state whole when the machine loses its power. A
// state that is new has nothing to lose. So the first build in one does without, and so do its RUNs, of which package
// managers wait for the disk after each file.
//
// The state tells so by the boot of the machine. After a crash, and so after the next boot, it is not used. The second
// build has it written to the disk, and waits for the disk itself from then on.

// unsyncedMark stands in layersFile before the boot in which the state was made.
const unsyncedMark = " unsynced "

// boot names the time since the machine was started. Empty: it is not known.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// settleState has all of a state written to the disk, and then marks it so.
func settleState(state, mark string) error {
	dir, err := os.Open(state)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(state, layersFile), []byte(mark), 0o600)
}

// skipSyncs has this process and those that it starts from now on not wait for the disk: fsync, fdatasync and sync do
// nothing. It tells whether the kernel does so.
func skipSyncs() bool {
	var arch uint32
	switch goruntime.GOARCH {
	case "amd64":
		arch = unix.AUDIT_ARCH_X86_64
	case "arm64":
		arch = unix.AUDIT_ARCH_AARCH64
	default:
		return false
	}
	const number, architecture = 0, 4 // offsets in the kernel's struct seccomp_data
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(value uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: yes, Jf: no}
	}
	answer := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	filter := []unix.SockFilter{
		load(architecture),
		equal(arch, 0, 4), // calls of other numbers
		load(number),
		equal(unix.SYS_FSYNC, 3, 0),
		equal(unix.SYS_FDATASYNC, 2, 0),
		equal(unix.SYS_SYNC, 1, 0),
		answer(unix.SECCOMP_RET_ALLOW),
		answer(unix.SECCOMP_RET_ERRNO), // with no error
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(
		unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)),
	)
	goruntime.KeepAlive(filter)
	return errno == 0
}
