package baseimages

import (
	"os/exec"
	"syscall"
)

// unshareMounts gives a command a mount namespace of its own.
func unshareMounts(cmd *exec.Cmd) { cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS }
