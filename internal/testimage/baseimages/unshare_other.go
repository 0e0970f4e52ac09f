//go:build !linux

package baseimages

import "os/exec"

// unshareMounts does nothing: there is no mmdebstrap to run.
func unshareMounts(*exec.Cmd) {}
