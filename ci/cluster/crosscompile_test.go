package main

import (
	"os"
	"os/exec"
	"testing"
)

// TestCrossCompile compiles this program for macOS, where people have kind in a virtual machine's engine.
func TestCrossCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles the program and its libraries")
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, ".")
	build.Env = append(os.Environ(), "GOOS=darwin", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
