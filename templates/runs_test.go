package templates_test

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/render"
)

// run holds the controller's knowledge of a WorkflowRun.
type run struct {
	namespace    string // acme if empty
	labels       map[string]string
	parameters   any            // as decoded from JSON
	externalRefs map[string]any // by id, {"spec": …}: one for whatever name
	references   map[string]any // by name, instead of that
}

// programs are the expressions of all workflows that are rendered here.
var programs render.Programs

// renderRun makes the Argo Workflow of a run, and its other resources by the end of their names: git-secret of
// cart-1-git-secret.
func renderRun(
	clusterWorkflow map[string]any, r run,
) (workflow map[string]any, resources map[string]map[string]any, err error) {
	spec, err := convert[v1alpha1.WorkflowSpec](clusterWorkflow["spec"])
	if err != nil {
		return nil, nil, err
	}
	parameters, _ := r.parameters.(map[string]any)
	raw, err := json.Marshal(parameters)
	if err != nil {
		return nil, nil, err
	}
	const name = "cart-1"
	in := render.Input{
		Run: &v1alpha1.WorkflowRun{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: cmp.Or(r.namespace, "acme"), Labels: r.labels},
			Spec: v1alpha1.WorkflowRunSpec{
				Workflow: v1alpha1.WorkflowRunConfig{Parameters: &runtime.RawExtension{Raw: raw}},
			},
		},
		Workflow:    spec,
		SecretStore: "openbao",
		Programs:    &programs,
	}
	for _, reference := range r.externalRefs {
		secret, err := convert[v1alpha1.SecretReference](reference)
		if err != nil {
			return nil, nil, err
		}
		in.SecretReference = func(string) *v1alpha1.SecretReference { return &secret }
	}
	if r.references != nil {
		in.SecretReference = func(name string) *v1alpha1.SecretReference {
			secret, err := convert[v1alpha1.SecretReference](r.references[name])
			if err != nil || r.references[name] == nil {
				return nil
			}
			return &secret
		}
	}
	out, err := render.Render(in)
	if err != nil {
		return nil, nil, err
	}
	resources = map[string]map[string]any{}
	for _, resource := range out.Resources {
		resources[strings.TrimPrefix(at(resource, "metadata", "name").(string), name+"-")] = resource
	}
	return out.Workflow, resources, nil
}

var gitCredentials = map[string]any{"git-secret-reference": map[string]any{"spec": map[string]any{
	"template": map[string]any{"type": "kubernetes.io/basic-auth"},
	"data": []any{
		map[string]any{"secretKey": "password", "remoteRef": map[string]any{"key": "git", "property": "token"}},
	},
}}}

// ordinary is a run that a developer would make.
func ordinary() run {
	return run{
		labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
		parameters: map[string]any{
			"repository": map[string]any{
				"url":       "https://git.example.com/acme/cart.git",
				"secretRef": "git-credentials",
			},
		},
		externalRefs: gitCredentials,
	}
}

// arguments are the parameters that the Workflow of a run gets.
func arguments(t *testing.T, workflow map[string]any) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, p := range at(workflow, "spec", "arguments", "parameters").([]any) {
		all[at(p, "name").(string)] = at(p, "value").(string)
	}
	return all
}

func TestRunOfOrdinaryParameters(t *testing.T) {
	t.Parallel()
	workflow, resources, err := renderRun(readYAML(t, dockerfileBuilder), run{
		labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
		parameters: map[string]any{
			"repository": map[string]any{
				"url":       "https://git.example.com/acme/cart.git",
				"secretRef": "git-credentials",
			},
			"buildEnv": []any{
				map[string]any{"name": "PORT", "value": 8080.0},
				map[string]any{"name": "A", "value": "<b>"},
			},
			"buildArgs": []any{map[string]any{"name": "ON", "value": true}},
		},
		externalRefs: gitCredentials,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"component-name": "cart", "project-name": "shop", "workflowrun-name": "cart-1", "namespace-name": "acme",
		"git-repo": "https://git.example.com/acme/cart.git", "branch": "main", "commit": "", "app-path": ".",
		"docker-context": ".", "dockerfile-path": "./Dockerfile",
		"build-env":  `[{"name":"PORT","value":8080},{"name":"A","value":"<b>"}]`,
		"build-args": `[{"name":"ON","value":true}]`,
		"image-name": "acme_shop_cart", "image-tag": "v1", "git-secret": "cart-1-git-secret",
		"registry-push-secret": "cart-1-registry-push-secret",
		"secret-keys":          declared["SECRET_KEYS"], "timestamps": "", "docker-target": "", "labels": "[]",
		"platforms": "[]",
		"no-cache":  "false", "build-secrets": "[]", "submodules": "", "lfs": "",
	}
	got := arguments(t, workflow)
	got["build-env"] = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(got["build-env"])
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := at(
		workflow, "spec", "templates", 0, "steps", 0, 0, "arguments", "parameters", 0, "value",
	); got != "true" {
		t.Errorf("git-secret-required is %v", got)
	}
	if claim := at(
		workflow, "spec", "volumeClaimTemplates", 0, "spec",
	).(map[string]any); claim["storageClassName"] != nil {
		t.Errorf("the default storage class is %q", claim["storageClassName"])
	}
	if len(resources) != 4 {
		t.Errorf("resources: %v", resources)
	}
	remote := at(resources["git-secret"], "spec", "data", 0, "remoteRef")
	if diff := gocmp.Diff(map[string]any{"key": "git", "property": "token"}, remote); diff != "" {
		t.Errorf("git-secret (-want +got)\n%s", diff)
	}
}

// strange are values of the wrong type or form, which the controller lets through.
var strange = map[string]any{
	"null": nil, "a text": "a", "an empty text": "", "a number": 1.5, "a large number": 1e6, "a boolean": true,
	"a list": []any{1.0, "a", nil}, "an object": map[string]any{"a": "b"},
	"an empty list": []any{}, "an empty object": map[string]any{}, "text of a list": `["{{workflow.name}}"]`,
	"CEL": "${parameters.nothing}", "a template": "{{workflow.name}}",
	"deep": []any{
		map[string]any{"name": []any{"{{workflow.name}}"}, "value": map[string]any{"{{workflow.name}}": nil},
			"{{workflow.uid}}": nil},
		[]any{"{{x}}"},
		nil,
	},
	"odd characters": "\u0000\n\"'`$\\é\U0001F600{ {", "base64": "base64:e3t9fQ==",
	"keys": map[string]any{"{{a}}": "b", "base64:": 1.0, "a b": []any{}},
}

var places = [][]string{
	nil, {"repository"}, {"repository", "url"}, {"repository", "secretRef"}, {"repository", "revision"},
	{"repository", "revision", "branch"}, {"repository", "revision", "commit"},
	{"repository", "appPath"}, {"docker"}, {"docker", "context"}, {"docker", "filePath"}, {"buildEnv"}, {"buildArgs"},
	{"repository", "submodules"}, {"repository", "lfs"}, {"docker", "platforms"}, {"docker", "target"}, {"labels"},
	{"noCache"}, {"buildSecrets"},
}

// No expression fails for any value of a developer: the run would be pending for ever. And no text that Argo would
// expand comes through.
func TestNoParameterBreaksARun(t *testing.T) {
	t.Parallel()
	cluster := readYAML(t, dockerfileBuilder)
	for _, place := range places {
		for about, value := range strange {
			t.Run(strings.Join(place, ".")+" is "+about, func(t *testing.T) {
				var parameters any = map[string]any{}
				holder := parameters.(map[string]any)
				for i, name := range place {
					if i == len(place)-1 {
						holder[name] = value
						break
					}
					inner := map[string]any{}
					holder[name], holder = inner, inner
				}
				if place == nil {
					if _, ok := value.(map[string]any); !ok && value != nil {
						t.Skip("the API server takes an object only")
					}
					parameters = value
				}
				workflow, _, err := renderRun(cluster, run{parameters: parameters, externalRefs: gitCredentials})
				if err != nil {
					t.Fatal(err)
				}
				for name, v := range arguments(t, workflow) {
					if strings.Contains(v, "{{") {
						t.Errorf("%s has something for Argo to expand: %s", name, v)
					}
				}
				if _, err := convert[wfv1.Workflow](workflow); err != nil {
					t.Errorf("Argo does not take the Workflow: %v", err)
				}
				required := at(workflow, "spec", "templates", 0, "steps", 0, 0, "arguments", "parameters", 0, "value")
				if last := strings.Join(place, "."); last == "repository.secretRef" {
					if public := value == nil || value == ""; (required == "false") != public {
						t.Errorf("git-secret-required is %v", required)
					}
				}
			})
		}
	}
}

// A secretRef whose Secret comes late: the pod may start without it, and the step has to know that it must wait.
func TestASecretThatComesLateIsWaitedFor(t *testing.T) {
	t.Parallel()
	cluster := readYAML(t, dockerfileBuilder)
	naive := clone(cluster).(map[string]any)
	set(t, naive, map[string]any{}, "spec", "runTemplate", "spec", "templates", 0, "steps", 0, 0, "arguments")
	tests := []struct {
		name      string
		cluster   map[string]any
		secretRef any
		want      string // GIT_SECRET_REQUIRED
	}{
		{"with a secretRef", cluster, "git-credentials", "true"},
		{"with a secretRef that cannot be a name", cluster, "{{workflow.name}}", "true"},
		{"with a secretRef that is no text", cluster, []any{"git-credentials"}, "true"},
		{"without", cluster, "", "false"},
		{"naive", naive, "git-credentials", "false"}, // clones as if the repository were public
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := ordinary()
			r.parameters.(map[string]any)["repository"].(map[string]any)["secretRef"] = test.secretRef
			workflow, resources, err := renderRun(test.cluster, r)
			if err != nil {
				t.Fatal(err)
			}
			env, err := stepVariables(t, workflow)
			if err != nil {
				t.Fatal(err)
			}
			if got := env["checkout-source GIT_SECRET_REQUIRED"]; got != test.want {
				t.Errorf("GIT_SECRET_REQUIRED is %q, want %q", got, test.want)
			}
			if made := resources["git-secret"] != nil; made != (test.secretRef == "git-credentials") {
				t.Errorf("an ExternalSecret is made: %t", made)
			}
		})
	}
}

// What a SecretReference says of its hosts gets into the Secret, and no other text that External Secrets would execute.
func TestASecretNamesItsHosts(t *testing.T) {
	t.Parallel()
	annotated := func(annotations any) map[string]any {
		return map[string]any{"annotations": annotations}
	}
	hosts := func(text string) map[string]any {
		return annotated(map[string]any{"stepwright.dev/git-hosts": text})
	}
	files, err := filepath.Glob("control-plane/*-builder.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v %v", files, err)
	}
	for name, test := range map[string]struct {
		metadata any
		want     any // git-hosts
	}{
		"no metadata":         {nil, nil},
		"no annotations":      {map[string]any{"labels": map[string]any{"a": "b"}}, nil},
		"another annotation":  {annotated(map[string]any{"a": "b"}), nil},
		"a host":              {hosts("git.example.com"), "git.example.com"},
		"several":             {hosts("a.example:8443, *.example.com,[::1]"), "a.example:8443, *.example.com,[::1]"},
		"an empty text":       {hosts(""), ""},
		"a template":          {hosts("{{ .password }}"), "(no list of hosts)"},
		"CEL":                 {hosts("${metadata.labels}"), "(no list of hosts)"},
		"an end of line":      {hosts("git.example.com\n{{ .password }}"), "(no list of hosts)"},
		"characters to quote": {hosts("\"\\'"), "(no list of hosts)"},
	} {
		for _, file := range files {
			t.Run(name+"/"+filepath.Base(file), func(t *testing.T) {
				t.Parallel()
				r := ordinary()
				refs := clone(gitCredentials).(map[string]any)
				if test.metadata != nil {
					set(t, refs, test.metadata, "git-secret-reference", "spec", "template", "metadata")
				}
				r.externalRefs = refs
				_, resources, err := renderRun(readYAML(t, file), r)
				if err != nil {
					t.Fatal(err)
				}
				template := at(resources["git-secret"], "spec", "target", "template").(map[string]any)
				data, _ := template["data"].(map[string]any)
				if got := data["git-hosts"]; got != test.want || len(data) > 1 || template["mergePolicy"] != "Merge" {
					t.Errorf("the template is %v, want git-hosts %v", template, test.want)
				}
			})
		}
	}
}

// Two runs of one component have one lock for the last step, and two components two.
func TestRunsOfOneComponentTakeTheLastStepInTurn(t *testing.T) {
	t.Parallel()
	lock := func(namespace, project, component string) string {
		r := ordinary()
		r.namespace = namespace
		r.labels["openchoreo.dev/project"], r.labels["openchoreo.dev/component"] = project, component
		object, _, err := renderRun(readYAML(t, dockerfileBuilder), r)
		if err != nil {
			t.Fatal(err)
		}
		templates, err := processed(t, object)
		if err != nil {
			t.Fatal(err)
		}
		last := templates["generate-workload-cr"]
		if last.Synchronization == nil || len(last.Synchronization.Mutexes) != 1 {
			t.Fatalf("generate-workload-cr has the locks %v", last.Synchronization)
		}
		return last.Synchronization.Mutexes[0].Name
	}
	if got := lock("acme", "shop", "cart"); got != "workload_acme_shop_cart" || got != lock("acme", "shop", "cart") {
		t.Errorf("the lock is %q", got)
	}
	seen := map[string]bool{}
	for _, names := range [][3]string{
		{"acme", "shop", "cart"}, {"acme", "shop", "till"}, {"globex", "shop", "cart"},
		{"acme", "shop-eu", "cart"}, {"acme", "shop", "eu-cart"}, {"acme-shop", "eu", "cart"},
	} {
		seen[lock(names[0], names[1], names[2])] = true
	}
	if len(seen) != 6 {
		t.Errorf("six components have the locks %v", seen)
	}
}

// A run is rendered for any JSON of a developer, and Argo finds nothing to expand in it.
func FuzzRun(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `{"repository":{"url":"{{workflow.name}}"}}`,
		`{"repository":[],"docker":1,"buildEnv":{"{{a}}":[]},"buildArgs":"[{{"}`,
		`{"buildEnv":[{"name":"a","value":"base64:"},[],null,{"{{":{}}]}`, `{"repository":{"secretRef":"a"}}`,
	} {
		f.Add(seed)
	}
	var cluster map[string]any
	raw, err := os.ReadFile(dockerfileBuilder)
	if err == nil {
		err = yaml.Unmarshal(raw, &cluster)
	}
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var parameters map[string]any
		if json.Unmarshal([]byte(text), &parameters) != nil {
			return // the API server takes an object only
		}
		workflow, _, err := renderRun(cluster, run{parameters: parameters, externalRefs: gitCredentials})
		if err != nil {
			t.Fatal(err)
		}
		for name, v := range arguments(t, workflow) {
			if strings.Contains(v, "{{") {
				t.Errorf("%s has something for Argo to expand: %s", name, v)
			}
		}
	})
}
