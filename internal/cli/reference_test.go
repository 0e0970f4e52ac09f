package cli

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const (
	referencePage = "../../docs/reference/cli.md"

	// cacheHome stands for everybody's own.
	cacheHome = "/home/you/.cache"
)

// TestReference: the page of all commands is what their --help says.
func TestReference(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", cacheHome)
	want := reference(t, command())
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/reference/cli.md is not up to date; go test ./internal/cli -run TestReference -update writes "+
			"it (- commands, + page):\n%s", diff)
	}
}

// reference is the page: a section for each command, in the order of the alphabet.
func reference(t *testing.T, root *cobra.Command) string {
	t.Helper()
	var table, sections strings.Builder
	for _, cmd := range root.Commands() {
		if !cmd.IsAvailableCommand() || cmd.Name() == "help" {
			continue
		}
		path := cmd.CommandPath()
		fmt.Fprintf(&table, "| [%s](#%s) | %s |\n", path, strings.ReplaceAll(path, " ", "-"), cmd.Short)
		fmt.Fprintf(&sections, "\n## %s\n", path)
		usage := helpOf(t, cmd)
		fmt.Fprintf(&sections, "\n```text\n%s\n```\n", usage)
	}
	return "<!-- Written by go test ./internal/cli -run TestReference -update. Do not edit. -->\n\n" +
		"# Commands\n\nWhat `stepwright <command> --help` prints. As `kubectl stepwright`, the same commands are " +
		"about the cluster of kubectl.\n\n| command | |\n|---|---|\n" + table.String() + sections.String()
}

// helpOf is what a command prints with --help.
func helpOf(t *testing.T, cmd *cobra.Command) string {
	t.Helper()
	var out bytes.Buffer
	cmd.InitDefaultHelpFlag()
	cmd.SetOut(&out)
	if err := cmd.Help(); err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(out.String()), cacheHome, "~/.cache")
}
