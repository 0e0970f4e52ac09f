// Package cli is the stepwright command: a file per subcommand.
package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	installed "github.com/stepwright/stepwright/templates"
)

// Main runs the command with these arguments, without the program's name, until it ends or its context does. It returns
// the exit code.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	return run(ctx, command(), args, stdout, stderr)
}

// Plugin is Main for kubectl, which calls a program kubectl-stepwright as its own command stepwright: what may be on
// this machine or in a cluster is in the cluster, unless --cluster=false says otherwise.
func Plugin(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := command()
	root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl stepwright"}
	for _, cmd := range root.Commands() {
		if f := cmd.Flags().Lookup("cluster"); f != nil {
			f.DefValue = "true"
			_ = f.Value.Set(f.DefValue) // which a flag that is true or false takes
		}
	}
	return run(ctx, root, args, stdout, stderr)
}

// IsPlugin tells whether a program of that path is called as a plugin of kubectl.
func IsPlugin(path string) bool {
	return strings.HasPrefix(filepath.Base(path), "kubectl-")
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "stepwright",
		Short:         "Turns a Git revision into a container image and an OpenChoreo Workload",
		Version:       installed.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		runCommand(), rerunCommand(), listCommand(), getCommand(), logsCommand(), watchCommand(), reportCommand(),
		cancelCommand(), validateCommand(), renderCommand(), devAPICommand(), verifyCommand(), doctorCommand(),
	)
	return root
}

func run(ctx context.Context, root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	root.SetArgs(append([]string{}, args...)) // never nil, for which cobra takes the process's own
	root.SetOut(stdout)
	root.SetErr(stderr)
	began := false
	for _, cmd := range root.Commands() {
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			began = true
			return run(cmd, args)
		}
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !began { // cobra refuses the command line
		err = outcome.Misuse(err.Error())
	}
	if err != nil {
		how := outcomeOf(ctx, withUsage(cmd, err))
		fmt.Fprintf(stderr, "%s: %s\n%s\n", how.Reason, how.Message, how.Hint)
		return how.ExitCode
	}
	return 0
}

// defaultState is Stepwright's part of the user's cache folder: all of it can be made again.
func defaultState() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = os.TempDir()
	}
	return filepath.Join(dir, "stepwright")
}

// notAForm is the fault of an --output that printObject does not know.
func notAForm(format string) string {
	return fmt.Sprintf("--output: %q is neither yaml nor json", format)
}

// printObject prints an object as YAML or JSON.
func printObject(out io.Writer, format string, object any) error {
	switch format {
	case "yaml":
		return printYAML(out, object)
	case "json":
		return printJSON(out, object)
	}
	return outcome.Misuse(notAForm(format))
}

func printJSON(out io.Writer, value any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(value)
	if err == nil {
		_, err = out.Write(quote.JSON(b.Bytes()))
	}
	return err
}

// printYAML prints a value as YAML. One that holds what a terminal would obey is printed as JSON, which is YAML, too:
// there, each character can be written by its number.
func printYAML(out io.Writer, value any) error {
	raw, err := yaml.Marshal(value)
	if text := string(raw); err != nil || quote.Text(text, 0) != text { // some characters it does not take at all
		return printJSON(out, value)
	}
	_, err = out.Write(raw)
	return err
}
