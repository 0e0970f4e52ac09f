package objects

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	utiljson "k8s.io/apimachinery/pkg/util/json"
)

func TestAdmit(t *testing.T) {
	const (
		metadata = `"metadata":{"name":"cart-1","namespace":"acme"}`
		run      = `{` + metadata + `,"spec":{"workflow":{"kind":"ClusterWorkflow","name":"builder"}}}`
	)
	workload := func(more string) string {
		return `{` + metadata + `,"spec":{"owner":{"projectName":"p","componentName":"c"},"container":{"image":"i"` +
			more + `}}`
	}
	const both = `,"env":[{"key":"a","value":"b","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}`
	const notAsked = `<nil>: Invalid value: null: some validation rules were not checked`
	tests := []struct {
		name, kind    string
		sent, stored  string
		want          []string // faults
		admitted, not string   // parts of what would be stored, and of what would not
	}{
		{name: "defaults are filled in", kind: "WorkflowRun",
			sent: strings.Replace(run, `"kind":"ClusterWorkflow",`, "", 1), admitted: `"kind":"ClusterWorkflow"`},
		{name: "unknown fields are dropped", kind: "Workload", sent: workload(`},"nonsense":{"a":1}`), not: "nonsense"},
		{name: "in the order of their fields", kind: "Workload",
			sent: workload(`},"endpoints":{"b":{"type":"HTTP","port":0},"a":{"type":"HTTP","port":70000}}`),
			want: []string{"spec.endpoints.a.port: Invalid value", "spec.endpoints.b.port: Invalid value"}},
		{name: "a rule", kind: "Workload", sent: workload(both),
			want: []string{"spec.container.env[0]: Invalid value: value and valueFrom are mutually exclusive"}},
		{name: "a rule, and another fault", kind: "Workload",
			sent: workload(both + `,"endpoints":{"a":{"type":"HTTP","port":0}}`),
			want: []string{"spec.endpoints.a.port: Invalid value", "spec.container.env[0]: Invalid value"}},
		{name: "a rule that is not asked", kind: "Workload",
			sent: workload(both + `,"endpoints":{"a":{"type":"REST","port":1}}`),
			want: []string{"spec.endpoints.a.type: Unsupported value", notAsked}},
		{name: "a rule about changes, of a new one", kind: "WorkflowRun", sent: run},
		{name: "a rule about changes, of the same", kind: "WorkflowRun", sent: run, stored: run},
		{name: "a rule about changes", kind: "WorkflowRun", sent: run,
			stored: strings.Replace(run, "builder", "other", 1),
			want:   []string{`spec.workflow.name: Invalid value: "builder": name is immutable`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			object := func(text string) (fields map[string]any) {
				if text == "" {
					return nil
				}
				if err := utiljson.Unmarshal([]byte(text), &fields); err != nil {
					t.Fatal(err)
				}
				fields["apiVersion"], fields["kind"] = group+"v1alpha1", test.kind
				return fields
			}
			fields := object(test.sent)
			var got []string
			for _, refusal := range Admit(test.kind, fields, object(test.stored)) {
				got = append(got, refusal.Error())
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
			admitted, err := json.Marshal(fields)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(admitted), test.admitted) {
				t.Errorf("%s is missing in %s", test.admitted, admitted)
			}
			if test.not != "" && strings.Contains(string(admitted), test.not) {
				t.Errorf("%s is in %s", test.not, admitted)
			}
		})
	}
}
