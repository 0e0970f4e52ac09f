package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/stepwright/stepwright/schemas"
)

// notForActions are parameters of generate-workload-cr without a use in GitHub Actions: there is no workspace, no pod,
// no other step of ours, and no standard output that anybody reads. What begins with actions- GitHub itself sets.
var notForActions = []string{
	"app-path", "dry-run", "oauth-client-secret-file", "workspace", "results-dir",
	"termination-message-path", "revision", "signature-digest", "sbom-digests", "failures",
	"actions-id-token-request-url", "actions-id-token-request-token",
}

// actionOutputs are the step's results, each with its meaning.
var actionOutputs = []struct{ name, about string }{
	{"workload", "Name of the Workload (string)."},
	{"workload-from-source", "Whether it was made of a descriptor, or with the image alone (boolean)."},
	{"reason", "How the step ended: Succeeded, or one of the reasons of docs/reference/outcomes.md (string)."},
}

// action returns the file of the composite action with its generated sections made anew.
func action(path string) (string, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var inputs, outputs, environment strings.Builder
	for _, p := range schemas.MustLoad("generate-workload-cr").Properties {
		if slices.Contains(notForActions, p.Name) {
			continue
		}
		about := strings.TrimSuffix(p.Description, ".") + " (" + p.Type
		if len(p.Enum) > 0 {
			about += ": " + strings.Join(p.Enum, ", ")
		}
		text, err := quoted(about + ").")
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&inputs, "%s:\n  description: %s\n", p.Name, text)
		if p.Required {
			inputs.WriteString("  required: true\n")
		} else {
			fmt.Fprintf(&inputs, "  default: %q\n", schemas.Text(p.Default))
		}
		fmt.Fprintf(&environment, "%s: ${{ inputs.%s }}\n", schemas.EnvName(p.Name), p.Name)
	}
	for _, o := range actionOutputs {
		text, err := quoted(o.about)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&outputs, "%s:\n  description: %s\n  value: ${{ steps.register.outputs.%[1]s }}\n", o.name, text)
	}
	return withSections(path, string(file), inputs.String(), outputs.String(), environment.String())
}

// quoted writes a text as YAML, in one line.
func quoted(text string) (string, error) {
	node := yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text, Style: yaml.DoubleQuotedStyle}
	raw, err := yaml.Marshal(&node)
	return strings.TrimSpace(string(raw)), err
}
