package workflowrun

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// One file for each row of the user guide's table, and for faults that it lacks.
func TestCheck(t *testing.T) {
	set, err := objects.Load("testdata/faults")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		file    string
		partial string // want where the cluster may hold missing objects: "" for the same, "-" for none
		want    []string
	}{
		{file: "good"},
		{file: "standalone"},
		{file: "one-label",
			want: []string{"6: WorkflowRun acme/one-label: metadata.labels: ComponentValidationFailed: " +
				"component workflow run must have both openchoreo.dev/project and openchoreo.dev/component labels"}},
		{file: "no-component", partial: "-",
			want: []string{
				"6: WorkflowRun acme/no-component: metadata.labels[openchoreo.dev/component]: " +
					"ComponentValidationFailed: " +
					`component "none" not found`,
			}},
		{file: "other-project",
			want: []string{
				"6: WorkflowRun acme/other-project: metadata.labels[openchoreo.dev/project]: " +
					"ComponentValidationFailed: " +
					`workflow run project label "bank" does not match component "cart" owner project "shop"`,
			}},
		{file: "no-component-type", partial: "-",
			want: []string{
				"6: WorkflowRun acme/no-component-type: metadata.labels[openchoreo.dev/component]: " +
					"ComponentValidationFailed: " +
					`component type "deployment/none" not found for component "typeless"`,
			}},
		{file: "not-allowed",
			want: []string{"9: WorkflowRun acme/not-allowed: spec.workflow.name: ComponentValidationFailed: " +
				`workflow ClusterWorkflow/other is not allowed for component type "service"; allowed: ` +
				`[ClusterWorkflow/dockerfile-builder, ClusterWorkflow/failing]`}},
		{file: "none-allowed",
			want: []string{"9: WorkflowRun acme/none-allowed: spec.workflow.name: ComponentValidationFailed: " +
				`no workflows are allowed by component type "closed", but workflow run references workflow ` +
				`ClusterWorkflow/dockerfile-builder`}},
		{file: "other-workflow",
			want: []string{"9: WorkflowRun acme/other-workflow: spec.workflow.name: ComponentValidationFailed: " +
				`workflow run references workflow ClusterWorkflow/failing but component "cart" is configured with ` +
				`workflow ClusterWorkflow/dockerfile-builder`}},
		{file: "no-workflow", partial: "-",
			want: []string{
				"9: WorkflowRun acme/no-workflow: spec.workflow.name: WorkflowFailed: Workflow is not found in the " +
					"cluster",
			}},
		{file: "no-secret", partial: "-",
			want: []string{"10: WorkflowRun acme/no-secret: spec.workflow.parameters: WorkflowPending: " +
				`stays pending until it is mended, and only the controller's log says why: there is no ` +
				`SecretReference "none" ` +
				`in namespace "acme"`}},
		{file: "parameters", want: []string{
			`14: WorkflowRun acme/parameters: spec.workflow.parameters.repository.revision.commit: does not have the ` +
				`right form`,
			`15: WorkflowRun acme/parameters: spec.workflow.parameters.buildEnv: expected array, but got string`,
			`18: WorkflowRun acme/parameters: spec.workflow.parameters.buildArgs[0].value: expected string, but got ` +
				`null`,
			`19: WorkflowRun acme/parameters: spec.workflow.parameters.more: is not a parameter`,
			`20: WorkflowRun acme/parameters: spec.workflow.parameters.docker.target: 1.10 is read as the number 1.1`,
			`21: WorkflowRun acme/parameters: spec.workflow.parameters.noCache: expected boolean, but got string`,
			`25: WorkflowRun acme/parameters: spec.workflow.parameters.` +
				`buildSecrets[1].name: "npmrc" is also the name of [0]`,
			`26: WorkflowRun acme/parameters: spec.workflow.parameters.` +
				`buildSecrets[2].name: does not have the right form`,
			`26: WorkflowRun acme/parameters: spec.workflow.parameters.buildSecrets[2].secretRef: is required`,
			`27: WorkflowRun acme/parameters: spec.workflow.parameters.` +
				`buildSecrets[2].key: does not have the right form`,
		}},
		{file: "components", want: []string{`39: Component acme/disallowed: spec.workflow.name: WorkflowNotAllowed: ` +
			`Workflow "other" (kind ClusterWorkflow) is not allowed by ComponentType "service"; allowed workflows: ` +
			`[{ClusterWorkflow dockerfile-builder} {ClusterWorkflow failing}]`}},
		{file: "platform",
			want: []string{
				`55: ClusterWorkflow failing: spec.runTemplate.spec.arguments.parameters[0].value: WorkflowPending: ` +
					"WorkflowRun acme/failing-expression stays pending until it is mended, and only the " +
					"controller's log says " +
					"why: ${parameters.none}: no such key: none",
			}},
		{file: "failing-expression"},
	}
	for _, partial := range []bool{false, true} {
		found := map[string][]string{}
		for _, f := range Check(set, partial) {
			file, text, _ := strings.Cut(strings.TrimPrefix(f.String(), "testdata/faults/"), ".yaml:")
			found[file] = append(found[file], text)
		}
		for _, test := range tests {
			want := test.want
			if partial && test.partial == "-" {
				want = nil
			}
			got := found[test.file]
			slices.Sort(got)
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf(
					"%s, partial %v: got\n  %s\nwant\n  %s", test.file, partial, strings.Join(got, "\n  "),
					strings.Join(want, "\n  "),
				)
			}
			delete(found, test.file)
		}
		if len(found) > 0 {
			t.Errorf("partial %v: not expected: %v", partial, found)
		}
	}
}

// A workflow whose plane is not among those of the files waits for it; where the files hold none, nothing is known.
func TestPlane(t *testing.T) {
	t.Parallel()
	const workflow = "---\napiVersion: openchoreo.dev/v1alpha1\nkind: KIND\nmetadata: {name: own, namespace: acme}\n" +
		"spec:\n  REF\n  runTemplate: {apiVersion: argoproj.io/v1alpha1, kind: Workflow, " +
		"metadata: {name: x, namespace: \"${metadata.namespace}\"}}\n"
	const plane = "---\napiVersion: openchoreo.dev/v1alpha1\nkind: KIND\nmetadata: {name: NAME, namespace: acme}\n" +
		"spec: {planeID: p, clusterAgent: {clientCA: {value: x}}}\n"
	const wanting = "No workflow plane found for the workflow associated with this workflow run: "
	for name, test := range map[string]struct{ kind, ref, planes, want string }{
		"no plane in the files": {kind: "ClusterWorkflow"},
		"the default":           {kind: "ClusterWorkflow", planes: "ClusterWorkflowPlane default"},
		"another": {
			kind: "ClusterWorkflow", planes: "ClusterWorkflowPlane other",
			want: wanting + `ClusterWorkflow own wants ClusterWorkflowPlane "default", and there is ` +
				"ClusterWorkflowPlane other; tried again each minute",
		},
		"another kind": {
			kind: "ClusterWorkflow", planes: "WorkflowPlane default",
			want: wanting + `ClusterWorkflow own wants ClusterWorkflowPlane "default", and there is ` +
				"WorkflowPlane acme/default",
		},
		"of the namespace": {
			kind: "Workflow", ref: "workflowPlaneRef: {kind: WorkflowPlane, name: own}", planes: "WorkflowPlane own",
		},
		"not of the namespace": {
			kind: "Workflow", ref: "workflowPlaneRef: {kind: WorkflowPlane, name: own}",
			planes: "ClusterWorkflowPlane own", want: wanting + `Workflow acme/own wants WorkflowPlane "own"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := "apiVersion: openchoreo.dev/v1alpha1\nkind: WorkflowRun\nmetadata: {name: r, namespace: acme}\n" +
				"spec: {workflow: {kind: " + test.kind + ", name: own}}\n" +
				strings.NewReplacer("KIND", test.kind, "REF", test.ref).Replace(workflow)
			if kind, name, given := strings.Cut(test.planes, " "); given {
				text += strings.NewReplacer("KIND", kind, "NAME", name).Replace(plane)
			}
			set := new(objects.Set)
			set.Read("a.yaml", []byte(text))
			faults := Check(set, false)
			if len(set.Faults) > 0 || (test.want == "") != (len(faults) == 0) || len(faults) > 0 && !strings.HasPrefix(
				faults[0].String(),
				"a.yaml:4: WorkflowRun acme/r: spec.workflow.name: WorkflowPlaneNotFound: "+test.want,
			) {
				t.Errorf("%v", faults)
			}
			if faults := Check(set, true); len(faults) > 0 {
				t.Errorf("where the cluster may hold it: %v", faults)
			}
		})
	}
}

// The guide has a row for each reason, and says what OpenChoreo does then.
func TestGuide(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/developers/before-a-run.md")
	if err != nil {
		t.Fatal(err)
	}
	for reason, then := range then {
		rows := 0
		for row := range strings.Lines(string(text)) {
			if strings.HasPrefix(row, "| ") && strings.Contains(row, "`"+reason+"`") {
				rows++
				if !strings.HasSuffix(row, " | "+then+" |\n") {
					t.Errorf("%s is %s, but the guide has %s", reason, then, row)
				}
			}
		}
		if rows == 0 {
			t.Errorf("the guide lacks %s", reason)
		}
	}
}

// TestReasonsOfTheGuide: the guide explains each reason that OpenChoreo's controllers give, and no other.
func TestReasonsOfTheGuide(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/developers/builds.md")
	if err != nil {
		t.Fatal(err)
	}
	constant := regexp.MustCompile(`(?m)^\tReason\w+ +controller\.ConditionReason = "(\w+)"`)
	reason := regexp.MustCompile("`([A-Z]\\w+)`")
	known := map[string]bool{}
	for controller, heading := range map[string]string{
		"workflowrun": "\n### Of a WorkflowRun\n", "component": "\n### Of a Component\n",
	} {
		source, err := os.ReadFile(filepath.Join(
			strings.TrimSpace(string(dir)), "internal/controller", controller, "controller_conditions.go",
		))
		if err != nil {
			t.Fatal(err)
		}
		_, table, found := strings.Cut(string(page), heading)
		table, _, _ = strings.Cut(table, "\n## ")
		table, _, _ = strings.Cut(table, "\n### ")
		if !found {
			t.Fatalf("the guide has no heading %q", heading)
		}
		var want, got []string
		for _, m := range constant.FindAllSubmatch(source, -1) {
			want = append(want, string(m[1]))
			known[string(m[1])] = true
		}
		for line := range strings.Lines(table) {
			if cells := strings.Split(line, "|"); len(cells) > 2 {
				for _, m := range reason.FindAllStringSubmatch(cells[1], -1) {
					got = append(got, m[1])
				}
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if len(want) < 8 || !slices.Equal(want, got) {
			t.Errorf("%s: OpenChoreo has %q, the guide %q", controller, want, got)
		}
	}
	for reason := range then {
		if !known[reason] {
			t.Errorf("OpenChoreo has no reason %s", reason)
		}
	}
}

func TestStandalone(t *testing.T) {
	set, err := objects.Load("testdata/faults")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"standalone": true, "one-label": false, "good": false} {
		if got := Standalone(set.Find("WorkflowRun", "acme", name)); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// OpenChoreo's own platform objects are without fault, and what a webhook of OpenChoreo refuses in a workflow is found.
func TestCheckWorkflows(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	samples := filepath.Join(strings.TrimSpace(string(dir)), "samples/getting-started")
	set, err := objects.Load(filepath.Join(samples, "ci-workflows"), filepath.Join(samples, "component-types"))
	if err != nil {
		t.Fatal(err)
	}
	if faults := Check(set, false); len(faults) > 0 || len(set.OfKind("ClusterWorkflow")) != 4 {
		t.Errorf("got %v for %v", faults, set.Objects)
	}

	set, err = objects.Load(folder(t, map[string]string{"a.yaml": `
apiVersion: openchoreo.dev/v1alpha1
kind: ClusterWorkflow
metadata: {name: broken}
spec:
  parameters:
    openAPIV3Schema:
      type: object
      properties:
        a: {$ref: "#/$defs/none"}
  runTemplate:
    apiVersion: argoproj.io/v1alpha1
    kind: ${parameters.kind}
    metadata:
      name: a
      namespace: fixed
  resources:
    - id: twice
      template: {apiVersion: v1, kind: Secret, metadata: {name: a, namespace: "${metadata.namespace}"}}
    - id: twice
      template: {metadata: {namespace: "${metadata.namespace}"}}
`}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"13: ClusterWorkflow broken: spec.runTemplate.kind: kind must be a literal value",
		`16: ClusterWorkflow broken: spec.runTemplate.metadata.namespace: metadata.namespace must be set to ` +
			`"${metadata.namespace}"`,
		`20: ClusterWorkflow broken: spec.resources[1].id: resource id "twice" is already used at index 0`,
		"21: ClusterWorkflow broken: spec.resources[1].template.apiVersion: apiVersion is required",
		"21: ClusterWorkflow broken: spec.resources[1].template.kind: kind is required",
		"21: ClusterWorkflow broken: spec.resources[1].template.metadata.name: metadata.name is required",
		`7: ClusterWorkflow broken: spec.parameters.openAPIV3Schema: $ref "#/$defs/none": there is no such definition`,
	}
	var got []string
	for _, f := range Check(set, false) {
		_, text, _ := strings.Cut(f.String(), "a.yaml:")
		got = append(got, text)
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n  %s", strings.Join(got, "\n  "))
	}
}
