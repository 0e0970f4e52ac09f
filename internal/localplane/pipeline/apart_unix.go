//go:build !windows

package pipeline

import "syscall"

// apart puts a process into a group of its own: Ctrl-C goes to the whole foreground group, and the step is told once,
// by us.
func apart() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
