// Package externalci_test runs what external CI runs, the step's binary and the examples, against an OpenChoreo API:
// the development API, or with -api the real one:
//
//	go test ./ci/externalci -run TestAPI -api http://… -token-url http://…/oauth2/token \
//	    -publisher ID=FILE -nobody ID=FILE -admin ID=FILE
package externalci_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

var (
	update    = flag.Bool("update", false, "write the table of API cases in docs/developers/external-ci.md anew")
	binaries  = flag.String("binaries", "", "folder that make binaries has written; empty: make it")
	apiURL    = flag.String("api", "", "base URL of an OpenChoreo API to test against; empty: a development API")
	tokenURL  = flag.String("token-url", "", "with -api: the token endpoint")
	namespace = flag.String("namespace", "default", "with -api: namespace that components are made in")
	project   = flag.String("project", "shop", "with -api: project that components are made in")
	publisher = flag.String("publisher", "", "with -api: client that may publish Workloads, as ID=file of its secret")
	nobody    = flag.String("nobody", "", "with -api: client without a role, as ID=file of its secret")
	admin     = flag.String("admin", "", "with -api: client that may make Components, as ID=file of its secret")
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		fmt.Println("skipped: the pipelines of other CIs want podman, npm and Java")
		return 0
	}
	if *binaries == "" {
		dir, err := os.MkdirTemp("", "externalci-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		*binaries = filepath.Join(dir, "bin")
		made := exec.Command("make", "-C", "../..", "binaries", "BINARIES="+*binaries, "ARCHITECTURES="+runtime.GOARCH,
			"STEPS=containerfile-build publish-image generate-workload-cr", "ANYWHERE=", "SYSTEMS=")
		if out, err := made.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "make binaries: %v\n%s", err, out)
			return 1
		}
	}
	return m.Run()
}

// binary is the path of a step's binary.
func binary(step string) string {
	return filepath.Join(*binaries, step+"_linux_"+runtime.GOARCH)
}

// quiet fails if one of the secrets, in whatever form, is in what somebody could read.
func quiet(t *testing.T, texts map[string]string, secrets ...string) {
	t.Helper()
	for name, text := range texts {
		for _, secret := range secrets {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("a secret is in the %s:\n%s", name, strings.ReplaceAll(text, secret, "<THE SECRET>"))
			}
		}
	}
}

// command runs a program in a folder with these variables and no others, and returns what it wrote and its exit code.
func command(t *testing.T, dir string, environ []string, name string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, environ
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("%s: %v", name, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
