package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// newRun is a run of a component with these parameters, in JSON.
func newRun(parameters string) *v1alpha1.WorkflowRun {
	run := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{
		Name: "cart-1", Namespace: "acme",
		Labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
	}}
	if parameters != "" {
		run.Spec.Workflow.Parameters = &runtime.RawExtension{Raw: []byte(parameters)}
	}
	return run
}

// sample is a ClusterWorkflow of OpenChoreo's own samples.
func sample(t *testing.T, name string) v1alpha1.WorkflowSpec {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(samplesDir(t), name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct{ Spec v1alpha1.WorkflowSpec }
	if err := yaml.Unmarshal(raw, &workflow); err != nil {
		t.Fatal(err)
	}
	return workflow.Spec
}

// samples are the names of OpenChoreo's own ClusterWorkflows.
func samples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(samplesDir(t), "*-builder.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("OpenChoreo has no samples (%v)", err)
	}
	var names []string
	for _, file := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".yaml"))
	}
	return names
}

func samplesDir(t *testing.T) string {
	t.Helper()
	dir, err := moduleDir()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "samples", "getting-started", "ci-workflows")
}

// oneParameter is a workflow whose one argument has a value in YAML.
func oneParameter(t *testing.T, value string) v1alpha1.WorkflowSpec {
	t.Helper()
	var spec v1alpha1.WorkflowSpec
	text := "runTemplate:\n  apiVersion: argoproj.io/v1alpha1\n  kind: Workflow\n" +
		"  metadata: {name: run, namespace: '${metadata.namespace}'}\n" +
		"  spec:\n    arguments:\n      parameters:\n      - name: x\n        value: " + value +
		"\n      - name: other\n        other: " + value + "\n"
	if err := yaml.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return spec
}

func argument(t *testing.T, out *Output) string {
	t.Helper()
	p := out.Workflow["spec"].(map[string]any)["arguments"].(map[string]any)["parameters"].([]any)[0].(map[string]any)
	text, ok := p["value"].(string)
	if !ok {
		t.Fatalf("the argument is %#v, and must be text", p["value"])
	}
	return text
}

var reference = &v1alpha1.SecretReference{Spec: v1alpha1.SecretReferenceSpec{
	Template: v1alpha1.SecretTemplate{Type: "kubernetes.io/ssh-auth"},
	Data: []v1alpha1.SecretDataSource{
		{SecretKey: "ssh-privatekey", RemoteRef: v1alpha1.RemoteReference{Key: "git/cart", Property: "key"}},
		{SecretKey: "known_hosts", RemoteRef: v1alpha1.RemoteReference{Key: "git/hosts"}},
	},
}}

func references(name string) *v1alpha1.SecretReference {
	if name == "git-credentials" {
		return reference
	}
	return nil
}

// compare renders by our code and by OpenChoreo's, and compares.
func compare(t *testing.T, inputs map[string]Input) {
	t.Helper()
	var names []string
	var questions []question
	for name, in := range inputs {
		names = append(names, name)
		q := question{Run: in.Run, Workflow: *in.Workflow.DeepCopy(), SecretStore: in.SecretStore}
		if context, err := newContext(in); err == nil {
			q.Refs, _ = context["externalRefs"].(map[string]any)
		}
		questions = append(questions, q)
	}
	for i, theirs := range ask(t, questions) {
		in := inputs[names[i]]
		out, err := Render(in)
		if (err != nil) != (theirs.Error != "") {
			t.Errorf("%s: got error %v, the controller has %q", names[i], err, theirs.Error)
			continue
		}
		if err != nil {
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("%s: %T is not our error", names[i], err)
			}
			continue
		}
		all := append(theirs.Resources, theirs.Workflow)
		for _, object := range all {
			label(object, in.Run)
		}
		got, want := encode(t, append(out.Resources, out.Workflow)), encode(t, all)
		if got != want {
			t.Errorf("%s: got\n%s\nthe controller makes\n%s", names[i], got, want)
		}
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// What developers write into a parameter, and what becomes of it on the way to Argo (docs/contract.md section 2).
func TestOddValues(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, parameter, want string }{
		{"text", `"main"`, "main"},
		{"empty text", `""`, ""},
		{"a number", `1000000`, "1e+06"},
		{"a small number", `8080`, "8080"},
		{"a fraction", `1.10`, "1.1"},
		{"a SHA of digits", `12345678901234567890`, "1.2345678901234567e+19"},
		{"a boolean", `true`, "true"},
		{"null", `null`, "NULL_VALUE"},
		{"a list", `[{"name": "A", "value": "<&>"}]`, `[{"name":"A","value":"\u003c\u0026\u003e"}]`},
		{"a list with null", `[null, 1, 1.5, true]`, `[null,1,1.5,true]`},
		{"an empty list", `[]`, "[]"},
		{"an object", `{"b": 1, "a": {"value": [1]}}`, `{"a":{"value":[1]},"b":1}`},
		{"text that is a list", `"[1, 2]"`, "[1,2]"},
		{"text that is nearly a list", `"[1, 2"`, "[1, 2"},
		{"text that is a list with a space before it", `" [1, 2]"`, " [1, 2]"},
		{"text that is an object", `"{\"a\": 1}"`, `{"a": 1}`},
		{"text with an expression", `"${metadata.namespace}"`, "${metadata.namespace}"},
		{"text for Argo", `"{{inputs.parameters.x}}"`, "{{inputs.parameters.x}}"},
		{"HTML in text", `"<b>"`, "<b>"},
	}
	inputs := map[string]Input{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := Input{Run: newRun(`{"x": ` + test.parameter + `}`), Workflow: oneParameter(t, "${parameters.x}")}
			out, err := Render(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := argument(t, out); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
		parameters := newRun(`{"x": ` + test.parameter + `}`)
		inputs[test.name] = Input{Run: parameters, Workflow: oneParameter(t, "${parameters.x}")}
		inputs[test.name+", interpolated"] = Input{Run: parameters, Workflow: oneParameter(t, "a-${parameters.x}-b")}
		inputs[test.name+", in a list"] = Input{
			Run:      parameters,
			Workflow: oneParameter(t, "'${[parameters.x, parameters]}'"),
		}
		inputs[test.name+", merged"] = Input{
			Run:      parameters,
			Workflow: oneParameter(t, "'${oc_merge(parameters, {\"y\": parameters.x})}'"),
		}
	}
	compare(t, inputs)
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, value, want, fault string }{
		{name: "plain", value: "v1", want: "v1"},
		{name: "several", value: "${metadata.namespaceName}-${metadata.workflowRunName}", want: "acme-cart-1"},
		{name: "the plane's namespace", value: "${metadata.namespace}", want: "workflows-acme"},
		{name: "a label", value: "${metadata.labels['openchoreo.dev/project']}", want: "shop"},
		{name: "all labels", value: "${metadata.labels}",
			want: "map[openchoreo.dev/component:cart openchoreo.dev/project:shop]"},
		{name: "a label that is missing", value: "${metadata.labels['x']}", fault: "no such key"},
		{name: "a parameter that is missing", value: "${parameters.none}", fault: "no such key: none"},
		{name: "a guarded one", value: `'${has(parameters.none) ? parameters.none : "fallback"}'`, want: "fallback"},
		{name: "optional", value: `"${parameters[?'none'].orValue('other')}"`, want: "other"},
		{name: "references where there are none", value: "${externalRefs['a'].spec}",
			fault: "undeclared reference to 'externalRefs'"},
		{name: "a nested expression", value: "${a ${b}}", fault: "an expression inside another must be quoted: ${a ${"},
		{name: "braces", value: `'${ {"a": {"b": "}"}}.a.b }'`, want: "}"},
		{name: "not closed", value: "'${a'", want: "${a"},
		{name: "spaces around one keep its type", value: `"  ${[1]}  "`, want: "[1]"},
		{name: "text around one does not", value: `"x ${[1]}"`, want: "x [1]"},
		{name: "a value that holds the next expression", value: "a-${parameters.trap}-${metadata.namespaceName}",
			want: "a-acme-${metadata.namespaceName}"},
		{name: "omitted", value: "${oc_omit()}", want: "-"},
		{name: "omitted in a text", value: "a${oc_omit()}", want: "a{}"},
		{name: "omitted in a list", value: `'${["a", oc_omit(), "b"]}'`, want: `["a","b"]`},
		{name: "omitted in an object", value: `'${{"a": oc_omit(), "b": 1}}'`, want: `{"b":1}`},
		{name: "merged", value: `'${oc_merge({"a": 1, "b": {"x": 1}}, {"b": {"y": 2}}, {"c": 3})}'`,
			want: `{"a":1,"b":{"y":2},"c":3}`},
		{name: "merged labels", value: `'${oc_merge(metadata.labels, {"a": 1})}'`, want: `{"a":1}`},
		{name: "one merged", value: `'${oc_merge({})}'`, fault: "oc_merge requires at least 2 arguments"},
		{name: "a hash", value: `'${oc_hash("test")}'`, want: "afd071e5"},
		{name: "a name", value: `'${oc_generate_name("Payment Service!", "prod")}'`,
			want: "payment-service-prod-0c160c1c"},
		{name: "a name of a list", value: `'${oc_generate_name(["a", "b"])}'`, want: "a-b-d44362d6"},
		{name: "a name of nothing", value: `'${oc_generate_name()}'`, fault: "no text to make a name of"},
		{name: "a label of long texts",
			value: `'${oc_dns_label("` + strings.Repeat("x", 80) + `", "` + strings.Repeat("y", 80) + `")}'`,
			want:  strings.Repeat("x", 27) + "-" + strings.Repeat("y", 26) + "-"},
		{name: "too many for a label: the hash alone",
			value: `'${oc_dns_label("` + strings.Repeat(`a","`, 70) + `a")}'`, want: "784198ff"},
		{name: "strings", value: `'${"a,b".split(",")}'`, want: "[a b]"},
		{name: "base64", value: `'${base64.encode(bytes("{{x}}"))}'`, want: "e3t4fX0="},
		{name: "math", value: `'${math.greatest(1, 2)}'`, want: "2"},
		{name: "sets", value: `'${sets.contains([1, 2], [2])}'`, want: "true"},
		{name: "lists", value: `'${[3, 1].sort()}'`, want: "[1,3]"},
		{name: "two variables", value: `'${{"a": 1}.transformList(k, v, k)}'`, want: `["a"]`},
		{name: "unsigned", value: `'${7u}'`, want: "7"},
		{name: "unsigned in a text", value: `'x${7u}'`, want: "x7"},
		{name: "a double in a text", value: `'x${1e21}'`, want: "x1e+21"},
		{name: "a duration", value: `'${duration("90s")}'`, want: "1m30s"},
		{name: "division by zero", value: `'${1/0}'`, fault: "division by zero"},
		{name: "a key", value: `{"${metadata.namespaceName}": 1}`, want: `{"acme":1}`},
		{name: "a key that is no text", value: `{"${1}": 1}`, fault: "the key ${1} is a number, and must be text"},
		{name: "an empty expression", value: "'${}'", fault: "Syntax error"},
	}
	inputs := map[string]Input{}
	for _, test := range tests {
		in := Input{Run: newRun(`{"trap": "${metadata.namespaceName}"}`), Workflow: oneParameter(t, test.value)}
		inputs[test.name] = in
		t.Run(test.name, func(t *testing.T) {
			out, err := Render(in)
			switch {
			case test.fault != "":
				if err == nil || !strings.Contains(err.Error(), test.fault) ||
					!strings.HasPrefix(err.Error(), "spec.runTemplate.spec.arguments.parameters[0].value") {
					t.Errorf("got %v, want spec.runTemplate.spec.arguments.parameters[0].value…%s", err, test.fault)
				}
			case err != nil:
				t.Error(err)
			case test.want == "-":
				p := out.Workflow["spec"].(map[string]any)["arguments"].(map[string]any)["parameters"].([]any)[0]
				if !reflect.DeepEqual(p, map[string]any{"name": "x"}) {
					t.Errorf("got %v, want no value", p)
				}
			case !strings.HasPrefix(argument(t, out), test.want):
				t.Errorf("got %q, want %q", argument(t, out), test.want)
			}
		})
	}
	compare(t, inputs)
}

// Texts made at random of what the scanner looks at.
func TestAnyText(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"${", "}", "{", "'", `"`, `\`, "$", "a", " ", "1", "'b'", "${1}", "[", "]", ","}
	inputs := map[string]Input{}
	for range 400 {
		var text strings.Builder
		for range 1 + random.IntN(9) {
			text.WriteString(parts[random.IntN(len(parts))])
		}
		in := Input{Run: newRun(""), Workflow: oneParameter(t, "x")}
		raw, err := json.Marshal(text.String())
		if err != nil {
			t.Fatal(err)
		}
		in.Workflow.RunTemplate.Raw = bytes.ReplaceAll(
			in.Workflow.RunTemplate.Raw, []byte(`"value":"x"`), append([]byte(`"value":`), raw...),
		)
		inputs[text.String()] = in
	}
	compare(t, inputs)
}

func TestSamples(t *testing.T) {
	t.Parallel()
	inputs := map[string]Input{}
	for _, workflow := range samples(t) {
		for name, parameters := range map[string]string{
			"least":  `{"repository": {"url": "https://git.example.com/cart.git"}}`,
			"secret": `{"repository": {"url": "git@example.com:cart.git", "secretRef": "git-credentials"}}`,
			"nulls": `{"repository": {"url": "u", "revision": null, "appPath": null}, "docker": null, ` +
				`"buildEnv": null}`,
			"mistyped": `{"repository": {"url": 1, "revision": {"branch": true, "commit": 1000000}}, "buildEnv": ` +
				`"A=b", "buildArgs": [{"name": "A"}], "more": 1}`,
			"no url":      `{"repository": {}}`,
			"nothing":     ``,
			"null":        `null`,
			"no object":   `[1]`,
			"no revision": `{"repository": {"url": "u", "revision": "main"}}`,
		} {
			inputs[workflow+", "+name] = Input{
				Run:             newRun(parameters),
				Workflow:        sample(t, workflow),
				SecretStore:     "default",
				SecretReference: references,
			}
		}
	}
	compare(t, inputs)

	unlabelled := newRun(`{"repository": {"url": "u"}}`)
	unlabelled.Labels = nil
	compare(t, map[string]Input{"no labels": {Run: unlabelled, Workflow: sample(t, "dockerfile-builder")}})
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, parameters := range map[string]string{
		"public": `{"repository": {"url": "https://git.example.com/cart.git"}, "buildArgs": [{"name": "PORT", ` +
			`"value": 8080}]}`,
		"private": `{"repository": {"url": "git@example.com:cart.git", "secretRef": "git-credentials", "revision": ` +
			`{"commit": 1000000}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			out, err := Render(Input{
				Run:             newRun(parameters),
				Workflow:        sample(t, "dockerfile-builder"),
				SecretStore:     "default",
				SecretReference: references,
			})
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			for _, object := range out.Objects() {
				text, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&got, "---\n%s", text)
			}
			path := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("%s differs; run go test with -update if it should:\n%s", path, got.Bytes())
			}
		})
	}
}

// Workflows whose faults only show when a run is rendered, and those of their schemas.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	const template = "{apiVersion: v1, kind: Secret, metadata: {name: '${metadata.workflowRunName}-s', namespace: " +
		"elsewhere}}"
	tests := []struct{ name, spec, fault string }{
		{name: "a resource", spec: "resources: [{id: a, template: " + template + "}]"},
		{name: "one that is left out",
			spec: "resources: [{id: a, includeWhen: '${false}', template: {kind: '${broken'}}]"},
		{name: "one without a name's beginning",
			spec: "resources: [{id: a, template: {apiVersion: v1, kind: Secret, metadata: {name: " +
				"'${workflowplane.secretStore}-s'}}}]"},
		{name: "includeWhen is text",
			spec:  "resources: [{id: a, includeWhen: '${\"true\"}', template: " + template + "}]",
			fault: `spec.resources[0].includeWhen: ${"true"} is text, and must be true or false`},
		{name: "includeWhen fails",
			spec:  "resources: [{id: a, includeWhen: '${parameters.none}', template: " + template + "}]",
			fault: "spec.resources[0].includeWhen: ${parameters.none}: no such key: none"},
		{name: "no kind", spec: "resources: [{id: a, template: {apiVersion: v1, metadata: {name: a}}}]",
			fault: "spec.resources[0].template.kind: is missing"},
		{name: "a name of a number",
			spec:  "resources: [{id: a, template: {apiVersion: v1, kind: Secret, metadata: {name: '${1}'}}}]",
			fault: "spec.resources[0].template.metadata.name: is missing, or no text"},
		{name: "defaults at every depth",
			spec: "parameters: {openAPIV3Schema: {type: object, properties: {a: {type: object, default: {}, " +
				"properties: {b: {type: string, default: deep, x-own: 1}}}}}}"},
		{name: "a default for null",
			spec: "parameters: {openAPIV3Schema: {type: object, properties: {given: {type: string, default: d}}}}"},
		{name: "references",
			spec: "parameters: {openAPIV3Schema: {type: object, $defs: {s: {type: string, default: s}, o: {type: " +
				"object, default: {}, properties: {p: {$ref: '#/$defs/s'}}}}, properties: {o: {$ref: '#/$defs/o'}, " +
				"d: {$ref: '#/$defs/s', default: beside}}}}"},
		{name: "a circle",
			spec: "parameters: {openAPIV3Schema: {type: object, $defs: {a: {$ref: '#/$defs/a'}}, properties: {x: " +
				"{$ref: '#/$defs/a'}}}}",
			fault: `spec.parameters.openAPIV3Schema: $ref "#/$defs/a" leads in a circle: a → a`},
		{name: "a reference to nothing",
			spec:  "parameters: {openAPIV3Schema: {type: object, properties: {x: {$ref: '#/$defs/a'}}}}",
			fault: "there is no such definition"},
		{name: "a reference elsewhere",
			spec:  "parameters: {openAPIV3Schema: {type: object, properties: {x: {$ref: 'https://example.com/a'}}}}",
			fault: "only #/$defs/<name> is supported"},
		{name: "not structural",
			spec: "parameters: {openAPIV3Schema: {type: object, properties: {x: {type: array, items: [{type: " +
				"string}]}}}}",
			fault: "spec.parameters.openAPIV3Schema: "},
	}
	inputs := map[string]Input{}
	for _, test := range tests {
		spec := oneParameter(t, "${parameters}")
		if err := yaml.Unmarshal([]byte(test.spec), &spec); err != nil {
			t.Fatal(err)
		}
		in := Input{Run: newRun(`{"given": null}`), Workflow: spec}
		inputs[test.name] = in
		t.Run(test.name, func(t *testing.T) {
			_, err := Render(in)
			if test.fault == "" && err != nil || test.fault != "" && (err == nil ||
				!strings.HasPrefix(err.Error(), test.fault) && !strings.Contains(err.Error(), test.fault)) {
				t.Errorf("got %v, want %q", err, test.fault)
			}
		})
	}
	compare(t, inputs)
}

func TestMissingSecretReference(t *testing.T) {
	t.Parallel()
	in := Input{
		Run:             newRun(`{"repository": {"url": "u", "secretRef": "none"}}`),
		Workflow:        sample(t, "dockerfile-builder"),
		SecretReference: references,
	}
	_, err := Render(in)
	if want := `spec.externalRefs[0].name: there is no SecretReference "none" in namespace "acme"`; err == nil ||
		err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
