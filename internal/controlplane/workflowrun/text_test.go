package workflowrun

import (
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// Text that YAML reads as something else reaches a build as another text. It must be in quotes; what stays as it is
// written needs none.
func TestUnquotedText(t *testing.T) {
	t.Parallel()
	const at = "a.yaml:13: WorkflowRun acme/cart-1: spec.workflow.parameters."
	for _, test := range []struct{ parameters, want string }{
		{
			`repository: {url: U, revision: {commit: 1234567}}`,
			at + `repository.revision.commit: 1234567 is read as the ` +
				`number 1234567, as YAML 1.1 does, and arrives as "1.234567e+06": put it in quotes to keep`,
		},
		{`repository: {url: U, revision: {commit: 0123456}}`, `0123456 is read as the number 42798`},
		{`repository: {url: U, revision: {commit: 12e4567}}`, ""},
		{`repository: {url: U, revision: {commit: 1e3}}`, `1e3 is read as the number 1000`},
		{`repository: {url: U, revision: {branch: 1.10}}`, `1.10 is read as the number 1.1`},
		{`repository: {url: U, revision: {branch: 1_000}}`, `1_000 is read as the number 1000`},
		{`repository: {url: U, revision: {branch: 0x1F}}`, `0x1F is read as the number 31`},
		{`repository: {url: U, revision: {branch: on}}`, `on is read as true, as YAML 1.1 does`},
		{`repository: {url: U, revision: {branch: No}}`, `No is read as false, as YAML 1.1 does`},
		{`repository: {url: U, revision: {branch: True}}`, `True is read as true`},
		{`repository: {url: U, revision: {branch: ~}}`, `~ is read as nothing, as YAML 1.1 does`},
		{`repository: {url: U, revision: {branch: null}}`, `null is read as nothing`},
		{`repository: {url: U, revision: {branch: .5}}`, `.5 is read as the number 0.5`},
		{`repository: {url: U, revision: {branch: +7}}`, `+7 is read as the number 7`},
		{`repository: {url: U, appPath: 1.0}`, `repository.appPath: 1.0 is read as the number 1`},
		{`repository: {url: U, secretRef: off}`, `repository.secretRef: off is read as false`},
		{`repository: {url: U, secretRef: 2024-01-02}`, ""},
		{`repository: {url: U}, docker: {filePath: 0755}`, `docker.filePath: 0755 is read as the number 493`},
		{`repository: {url: U}, buildArgs: [{name: A, value: 1.10}]`, `buildArgs[0].value: 1.10 is read`},
		{`repository: {url: U}, buildEnv: [{name: A, value: yes}]`, `buildEnv[0].value: yes is read as`},
		{`repository: {url: U}, buildEnv: [{name: on, value: "1"}]`, `buildEnv[0].name: on is read as`},
		{`repository: {url: U}, buildEnv: [{name: A, value: 12345678901234567}]`, `12345678901234567 is read as`},
		{
			`repository: {url: U}, buildEnv: &a [{name: A, value: off}], buildArgs: *a`,
			`buildEnv[0].value: off is read`,
		},
		{`repository: {url: U}, buildEnv: [{name: A, value: 8080}, {name: B, value: true}]`, ""},
		{`repository: {url: U, revision: {commit: "1234567", branch: '1.10'}}`, ""},
		{`repository: {url: U, revision: {commit: 123456}}`, ""},
		{`repository: {url: U, revision: {branch: 2024}}`, ""},
		{`repository: {url: U, revision: {branch: !!str 1.10}}`, ""},
	} {
		want, parameters := test.want, strings.ReplaceAll(test.parameters, "U", `"https://git.example.com/cart.git"`)
		set := new(objects.Set)
		set.Read("a.yaml", []byte(strings.Replace(run, `      repository: {url: "https://git.example.com/cart.git", `+
			`revision: {branch: main}}
      buildEnv: [{name: A, value: "1"}]
      buildArgs: [{name: PORT, value: 8080}, {name: DEBUG, value: true}]
`, "      {"+parameters+"}\n", 1)))
		faults := Check(set, true)
		switch {
		case want == "" && len(faults) > 0:
			t.Errorf("%s: %v", parameters, faults)
		case want != "" && (len(faults) == 0 || !strings.Contains(faults[0].String(), want) ||
			!strings.Contains(faults[0].String(), "put it in quotes")):
			t.Errorf("%s: no %q in %v", parameters, want, faults)
		case want != "" && !strings.Contains(parameters, "*a") && len(faults) != 1:
			t.Errorf("%s: more than one fault: %v", parameters, faults)
		}
		// The command does not run what it would build otherwise.
		if _, faults := newRun(set, set.Objects[0], false); want != "" && len(faults) == 0 {
			t.Errorf("%s: runs", parameters)
		}
	}
}

// It is so in Components, by the schema of a workflow that is not ours, and in fields of OpenChoreo's own.
func TestUnquotedTextElsewhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ text, want string }{
		"a Component": {
			strings.Replace(component, "name: dockerfile-builder}", "name: dockerfile-builder,\n"+
				`    parameters: {repository: {url: "https://git.example.com/a.git", revision: {branch: 1.10}}}}`, 1),
			"a.yaml:9: Component acme/cart: spec.workflow.parameters.repository.revision.branch: 1.10 is read as",
		},
		"another workflow": {
			"apiVersion: openchoreo.dev/v1alpha1\nkind: Workflow\nmetadata: {name: own, namespace: acme}\nspec:\n" +
				"  parameters:\n    openAPIV3Schema:\n      type: object\n" +
				"      properties: {tag: {type: string}, n: {type: integer}}\n" +
				"  runTemplate: {apiVersion: argoproj.io/v1alpha1, kind: Workflow, " +
				"metadata: {name: x, namespace: \"${metadata.namespace}\"}}\n---\n" +
				"apiVersion: openchoreo.dev/v1alpha1\nkind: WorkflowRun\nmetadata: {name: r, namespace: acme}\n" +
				"spec:\n  workflow:\n    kind: Workflow\n    name: own\n    parameters:\n      n: 4\n      tag: 1.10\n",
			`a.yaml:20: WorkflowRun acme/r: spec.workflow.parameters.tag: 1.10 is read as the number 1.1, as YAML`,
		},
		"OpenChoreo's own field": {
			strings.Replace(component, "projectName: shop", "projectName: 0123", 1),
			`a.yaml:6: Component acme/cart: spec.owner.projectName: `,
		},
		"a label": {
			strings.Replace(component, "namespace: acme}", "namespace: acme, labels: {version: 1.10}}", 1),
			"put it in quotes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := new(objects.Set)
			set.Read("a.yaml", []byte(test.text))
			faults := Check(set, true)
			if len(faults) != 1 || !strings.Contains(faults[0].String(), test.want) ||
				!strings.Contains(faults[0].String(), "put it in quotes") {
				t.Errorf("no %q in %v", test.want, faults)
			}
		})
	}
}
