package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/workflowplane/workflowplanetest"
	installed "github.com/stepwright/stepwright/templates"
)

// A command line that cannot be run is told as such, with the use of that command, and is nobody's defect.
func TestMisuse(t *testing.T) {
	t.Parallel()
	empty, state := t.TempDir(), t.TempDir()
	broken := filepath.Join(empty, "broken.json")
	if err := os.WriteFile(broken, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(faulty, "good.yaml")
	kubeconfig := workflowplanetest.New(t).Kubeconfig(t, workflowplanetest.Token)
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"no such command": {[]string{"validte", run}, []string{`unknown command "validte"`, "validate", "COMMAND"}},
		"no such flag":    {[]string{"--verbose"}, []string{"unknown flag: --verbose", "stepwright --help"}},
		"a flag's value":  {[]string{"validate", "--partial=maybe", run}, []string{`invalid argument "maybe"`}},
		"a flag without":  {[]string{"render", run, "--name"}, []string{"flag needs an argument: --name"}},
		"doctor: no namespace to make things in": {
			[]string{"doctor", "--probe"}, []string{"--probe", "--namespace"},
		},
		"validate: flag":   {[]string{"validate", "--strict", run}, []string{"unknown flag: --strict"}},
		"validate: none":   {[]string{"validate"}, []string{"requires at least 1 arg", "FILE|FOLDER..."}},
		"validate: absent": {[]string{"validate", "no/such"}, []string{"no/such: no such file or directory"}},
		"validate: empty":  {[]string{"validate", t.TempDir()}, []string{"no YAML file in this folder"}},
		"validate: form":   {[]string{"validate", run, "-o", "toml"}, []string{`"toml" is none of text, yaml, json`}},
		"validate: templates": {
			[]string{"validate", run, "--templates", "no/such"}, []string{"no/such: no such file or directory"},
		},
		"render: none":      {[]string{"render"}, []string{"requires at least 1 arg", "stepwright render [flags]"}},
		"render: absent":    {[]string{"render", "no/such.yaml"}, []string{"no/such.yaml: no such file or directory"}},
		"render: templates": {[]string{"render", run, "--templates", t.TempDir()}, []string{"no YAML file"}},
		"run: none":         {[]string{"run"}, []string{"requires at least 1 FILE", "stepwright run [flags]"}},
		"run: no place":     {[]string{"run", "--component", "cart"}, []string{"--cluster and --component"}},
		"run: absent":       {[]string{"run", "no/such"}, []string{"no/such: no such file or directory"}},
		"run: flag":         {[]string{"run", "--sources", empty, run}, []string{"unknown flag: --sources"}},
		"run: half a cluster": {
			[]string{"run", "--kubeconfig", kubeconfig, "--context", "x", run},
			[]string{"2 faults", "--kubeconfig: is about a run in a cluster, and needs --cluster"},
		},
		"run: setting": {[]string{"run", "--set", "repository.url", run}, []string{"not of the form path=value"}},
		"rerun: none":  {[]string{"rerun"}, []string{"requires at least 1 arg", "rerun [flags] NAME"}},
		"rerun: cluster": {
			[]string{"rerun", "--cluster", "--kubeconfig", kubeconfig, "cart-1"}, []string{"only, and no"},
		},
		"watch: both": {
			[]string{"watch", "cart-1", "--component", "cart", "--kubeconfig", kubeconfig},
			[]string{"give either the NAME"},
		},
		"cancel: none": {[]string{"cancel", "--state", state}, []string{"give either the NAME"}},
		"cancel: ended": {
			[]string{"cancel", "cart-1", "--kubeconfig", kubeconfig}, []string{"has ended already: Succeeded"},
		},
		"list: form": {[]string{"list", "-o", "toml"}, []string{`"toml" is none of wide, name, yaml and json`}},
		"run: half an API": {
			[]string{"run", "--api-server-url", "http://127.0.0.1:1", run}, []string{"missing [oauth-client-id"},
		},
		"run: an API without credentials": {
			[]string{"run", "--api-server-url", "http://127.0.0.1:1", "--oauth-client-id", "me", run},
			[]string{"--oauth-client-secret-file or --oauth-client-assertion-file"},
		},
		"run: two ways to be a client": {
			[]string{"run", "--api-server-url", "http://127.0.0.1:1", "--oauth-client-id", "me",
				"--oauth-client-secret-file", run, "--oauth-client-assertion-file", run, run},
			[]string{"[oauth-client-assertion-file oauth-client-secret-file] were all set"},
		},
		"run: absent, in a cluster": {
			[]string{"run", "--cluster", "--kubeconfig", kubeconfig, "no/such"}, []string{"no/such: no such file"},
		},
		"run: form, in a cluster": {
			[]string{"run", "--cluster", "--kubeconfig", kubeconfig, "-o", "toml", run}, []string{`"toml" is neither`},
		},
		"list: too many": {[]string{"list", "cart-1"}, []string{"cart-1", "stepwright list [flags]"}},
		"list: context":  {[]string{"list", "--context", "prod"}, []string{"--context: needs --cluster or"}},
		"list: two places": {
			[]string{"list", "--state", state, "--kubeconfig", kubeconfig}, []string{"kubeconfig", "state"},
		},
		"get: none":     {[]string{"get", "--state", state}, []string{"give either the NAME", "[flags] NAME"}},
		"get: too many": {[]string{"get", "a", "b"}, []string{"give either the NAME"}},
		"get: form": {
			[]string{"get", "cart-1", "-o", "toml", "--kubeconfig", kubeconfig}, []string{`"toml" is neither yaml nor`},
		},
		"logs: none":     {[]string{"logs"}, []string{"give the NAME of a run", "NAME [TASK]"}},
		"logs: too many": {[]string{"logs", "a", "b", "c"}, []string{"received 3"}},
		"logs: task": {
			[]string{"logs", "cart-1", "push", "--kubeconfig", kubeconfig}, []string{`no task "push"; it has checkout`},
		},
		"dev-api: absent": {
			[]string{"dev-api", "--dir", t.TempDir(), "no/such.yaml"}, []string{"no/such.yaml: no such file"},
		},
		"dev-api: not here": {
			[]string{"dev-api", "--dir", t.TempDir(), "--listen", "0.0.0.0:0"}, []string{"--listen: ", "loopback"},
		},
		"dev-api: a file for a folder": {[]string{"dev-api", "--dir", broken}, []string{"not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			code := Main(t.Context(), test.args, &stdout, &stderr)
			if code != outcome.UsageError.ExitCode() || stdout.Len() > 0 {
				t.Errorf("exit code %d, stdout %q", code, stdout.String())
			}
			for _, want := range append(test.want, "UsageError: ") {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q is missing in\n%s", want, stderr.String())
				}
			}
			for _, not := range []string{"defect", "step "} {
				if strings.Contains(stderr.String(), not) {
					t.Errorf("%q is in\n%s", not, stderr.String())
				}
			}
		})
	}
}

// Help is asked for, and is no misuse.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"--help"}, {"help", "run"}, {"logs", "-h"}} {
		var stdout, stderr bytes.Buffer
		if code := Main(t.Context(), args, &stdout, &stderr); code != 0 ||
			!strings.Contains(stdout.String(), "Usage:\n  stepwright") || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d\n%s\n%s", args, code, &stdout, &stderr)
		}
	}
}

// A run on this machine needs Linux; elsewhere it is refused before anything starts, and says what to do.
func TestRunsOn(t *testing.T) {
	t.Parallel()
	if err := runsOn("linux"); err != nil {
		t.Errorf("linux: %v", err)
	}
	for _, os := range []string{"darwin", "windows"} {
		err, ok := errors.AsType[*outcome.Error](runsOn(os))
		if !ok || err.Reason != outcome.UsageError {
			t.Fatalf("%s: error %v", os, err)
		}
		for _, want := range []string{os, "Linux", "--cluster", "--buildkit-address", "Docker Desktop", "Colima"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is missing in %v", os, want, err)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	code := Main(t.Context(), []string{"--version"}, &stdout, &stderr)
	if want := "stepwright version " + installed.Version() + "\n"; code != 0 || stdout.String() != want {
		t.Errorf("exit code %d, %q, want %q", code, stdout.String(), want)
	}
}
