package main

import (
	"os/exec"
	"os/signal"
	"syscall"
)

// ownGroup keeps a terminal's signals from a command.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// reapOrphans has the kernel forget the processes that this one inherits when they end.
func reapOrphans() { signal.Ignore(syscall.SIGCHLD) }
