package main

import (
	"bufio"
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// make binaries writes what a release has, for the systems that people have, and the sums of all of it.
func TestBinariesOfACheckout(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles for three systems")
	}
	dir := filepath.Join(t.TempDir(), "bin")
	architecture := runtime.GOARCH
	// The command takes a compiler a quarter of an hour for three systems; that it has packages for each is seen below.
	made := exec.CommandContext(t.Context(), "make", "-C", "../..", "binaries", "BINARIES="+dir,
		"ARCHITECTURES="+architecture, "STEPS=generate-workload-cr", "ANYWHERE=./steps/generate-workload-cr")
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Each is a program of its system.
	formats := map[string]func(string) (io.Closer, error){
		"linux":   func(path string) (io.Closer, error) { return elf.Open(path) },
		"darwin":  func(path string) (io.Closer, error) { return macho.Open(path) },
		"windows": func(path string) (io.Closer, error) { return pe.Open(path + ".exe") },
	}
	var want []string
	for system, open := range formats {
		name := "generate-workload-cr_" + system + "_" + architecture
		file, err := open(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file.Close()
		if system == "windows" {
			name += ".exe"
		}
		want = append(want, name)
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/stepwright")
		list.Dir, list.Env = "../..", append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system)
		if out, err := list.CombinedOutput(); err != nil {
			t.Errorf("stepwright for %s: %v\n%s", system, err, out)
		}
	}
	sums, err := os.Open(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	defer sums.Close()
	var listed []string
	for lines := bufio.NewScanner(sums); lines.Scan(); {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(content)) != sum {
			t.Errorf("%s: %v, or another sum", lines.Text(), err)
		}
		listed = append(listed, name)
	}
	slices.Sort(want)
	if slices.Sort(listed); !slices.Equal(listed, want) {
		t.Errorf("listed are %q, want %q", listed, want)
	}
}

// The command is among what make binaries writes, for each system.
func TestBinariesOfTheCommand(t *testing.T) {
	plan := exec.CommandContext(t.Context(), "make", "-C", "../..", "-n", "binaries", "STEPS=publish-image")
	out, err := plan.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"for program in ./cmd/stepwright ./steps/generate-workload-cr ./steps/publish-image; do build linux",
		"for system in darwin windows; do for program in ./steps/generate-workload-cr ./cmd/stepwright; do",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
