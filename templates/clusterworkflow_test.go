package templates_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/workflow/common"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func readYAML(t *testing.T, path string) map[string]any {
	t.Helper()
	var object map[string]any
	if err := yaml.Unmarshal(readFile(t, path), &object); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return object
}

// convert decodes what is a map into a type of Argo's or OpenChoreo's, and refuses fields that the type lacks.
func convert[T any](v any) (T, error) {
	var into T
	raw, err := json.Marshal(v)
	if err == nil {
		err = yaml.UnmarshalStrict(raw, &into)
	}
	return into, err
}

const dockerfileBuilder = "control-plane/dockerfile-builder.yaml"

var gitCredentials = map[string]any{"git-secret-reference": map[string]any{"spec": map[string]any{
	"template": map[string]any{"type": "kubernetes.io/basic-auth"},
	"data": []any{
		map[string]any{"secretKey": "password", "remoteRef": map[string]any{"key": "git", "property": "token"}},
	},
}}}

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
		"image-name": "acme-shop-cart", "image-tag": "v1", "git-secret": "cart-1-git-secret",
		"registry-push-secret": "cart-1-registry-push-secret",
	}
	got := arguments(t, workflow)
	got["build-env"] = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(got["build-env"])
	if diff := cmp.Diff(want, got); diff != "" {
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
	if diff := cmp.Diff(map[string]any{"key": "git", "property": "token"}, remote); diff != "" {
		t.Errorf("git-secret (-want +got)\n%s", diff)
	}
}

// strange are values that nobody should give, and the controller lets through.
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
}

// No expression fails, whatever a developer wrote: a run would be pending for ever. And no text that Argo would expand
// comes through.
func TestNoParameterBreaksARun(t *testing.T) {
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

// expansions are texts by which a developer would make Argo tell or do something, and that must arrive as they are.
var expansions = []string{
	"{{inputs.parameters.oauth-client-id}}", "{{workflow.parameters.registry-push-secret}}", "{{workflow.name}}",
	`{{=sprig.upper("x")}}`, "{{=1+1}}",
	"{{ inputs.parameters.registry }}", "{{{{workflow.name}}}}", "a{{workflow.uid}}b", "{{inputs.parameters}}",
	"{{workflow.parameters}}", "{{=inputs.parameters.image}}",
	"base64:e3t3b3JrZmxvdy5uYW1lfX0=", "base64:", "}}{{", "{{",
}

// Argo's own processing gives each step what the developer wrote.
func TestArgoExpandsNothingOfADeveloper(t *testing.T) {
	for _, cluster := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		t.Run(at(cluster, "metadata", "name").(string), func(t *testing.T) {
			if err := attack(t, cluster); err != nil {
				t.Error(err)
			}
		})
	}
}

// The same attack succeeds on a ClusterWorkflow that passes texts as they come.
func TestTheExpansionAttackWorksOnANaiveTemplate(t *testing.T) {
	raw := readFile(t, dockerfileBuilder)
	const encode = `v.contains("{{") || v.contains("$$") || v.contains("$(") || v.startsWith("base64:") ? "base64:" ` +
		`+ base64.encode(bytes(v)) : v`
	naive := strings.ReplaceAll(string(raw), encode, "v")
	if naive == string(raw) {
		t.Fatal("there is nothing to make naive")
	}
	var cluster map[string]any
	if err := yaml.Unmarshal([]byte(naive), &cluster); err != nil {
		t.Fatal(err)
	}
	if err := attack(t, cluster); err == nil {
		t.Error("the attack fails even without the encoding: this test proves nothing")
	}
}

// A secretRef whose Secret comes late: the pod may start without it, and the step has to know that it must wait.
func TestASecretThatComesLateIsWaitedFor(t *testing.T) {
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

// Two runs of one component have one lock for the last step, and two components two.
func TestRunsOfOneComponentTakeTheLastStepInTurn(t *testing.T) {
	lock := func(component string) string {
		r := ordinary()
		r.labels["openchoreo.dev/component"] = component
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
	if a, b := lock("cart"), lock("till"); a == b || a != "workload-shop-cart" {
		t.Errorf("the locks are %q and %q", a, b)
	}
}

// Whatever JSON a developer gives: the run is rendered, and Argo finds nothing to expand.
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

// attack gives every parameter of a developer every expansion, and tells the first that does not arrive as it was
// written.
func attack(t *testing.T, cluster map[string]any) error {
	t.Helper()
	for _, text := range expansions {
		pairs := []any{map[string]any{"name": text, "value": text}}
		workflow, _, err := renderRun(cluster, run{
			labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
			parameters: map[string]any{
				"repository": map[string]any{
					"url":      text,
					"appPath":  text,
					"revision": map[string]any{"branch": text, "commit": text},
				},
				"docker": map[string]any{"context": text, "filePath": text}, "buildEnv": pairs, "buildArgs": pairs,
			},
		})
		if err != nil {
			return err
		}
		env, err := stepVariables(t, workflow)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		texts := []string{"checkout-source GIT_REPO", "checkout-source BRANCH", "checkout-source COMMIT",
			"generate-workload-cr APP_PATH"}
		build := at(workflow, "spec", "templates", 0, "steps", 1, 0, "name").(string)
		lists := []string{build + " BUILD_ENV"}
		if build == "containerfile-build" {
			texts = append(texts, build+" DOCKER_CONTEXT", build+" DOCKERFILE_PATH")
			lists = append(lists, build+" BUILD_ARGS")
		} else {
			texts = append(texts, build+" APP_PATH")
		}
		want := map[string]string{}
		for _, name := range texts {
			want[name] = text
		}
		for name, text := range want {
			if got := decoded(env[name]); got != text {
				return fmt.Errorf("%s: %q arrived as %q", name, text, got)
			}
		}
		for _, name := range lists {
			var got []map[string]string
			if err := json.Unmarshal([]byte(env[name]), &got); err != nil || len(got) != 1 {
				return fmt.Errorf("%s: %q arrived as %q (%v)", name, text, env[name], err)
			}
			if decoded(got[0]["name"]) != text || decoded(got[0]["value"]) != text {
				return fmt.Errorf("%s: %q arrived as %q", name, text, env[name])
			}
		}
	}
	return nil
}

// decoded is what a step makes of a text.
func decoded(text string) string {
	code, ok := strings.CutPrefix(text, "base64:")
	if !ok {
		return text
	}
	plain, err := base64.StdEncoding.DecodeString(code)
	if err != nil {
		return err.Error()
	}
	return string(plain)
}

// stepVariables takes a Workflow through Argo's own processing of parameters, and returns each step's variables: "step
// NAME" to value.
func stepVariables(t *testing.T, object map[string]any) (map[string]string, error) {
	t.Helper()
	templates, err := processed(t, object)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for step, template := range templates {
		for _, v := range template.Container.Env {
			all[step+" "+v.Name] = v.Value
		}
	}
	return all, nil
}

// processed are a Workflow's templates by step, the way Argo makes pods of them.
func processed(t *testing.T, object map[string]any) (map[string]*wfv1.Template, error) {
	t.Helper()
	ctx := argoContext()
	workflow, err := convert[wfv1.Workflow](object)
	if err != nil {
		return nil, err
	}
	globals := common.Parameters{
		"workflow.name":      "cart-1",
		"workflow.uid":       "6b1f",
		"workflow.namespace": "workflows-acme",
	}
	for _, p := range workflow.Spec.Arguments.Parameters {
		globals["workflow.parameters."+p.Name] = p.Value.String()
	}
	main, err := common.ProcessArgs(
		ctx, &workflow.Spec.Templates[0], &wfv1.Arguments{}, globals, common.Parameters{}, false, "", nil,
	)
	if err != nil {
		return nil, err
	}
	outputs := common.Parameters{"steps.checkout-source.outputs.parameters.git-revision": "1a2b3c4d",
		"steps.publish-image.outputs.parameters.image": "registry/cart:v1"}
	if main, err = common.SubstituteParams(ctx, main, globals, outputs); err != nil {
		return nil, err
	}
	all := map[string]*wfv1.Template{}
	for _, group := range main.Steps {
		step := group.Steps[0]
		cluster, err := convert[wfv1.ClusterWorkflowTemplate](readYAML(t, "workflow-plane/"+step.TemplateRef.Name+
			".yaml"))
		if err != nil {
			return nil, err
		}
		all[step.Name], err = common.ProcessArgs(ctx, cluster.GetTemplateByName(
			step.TemplateRef.Template,
		), &step.Arguments, globals, common.Parameters{
			"pod.name": "pod",
		}, false, "", nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.Name, err)
		}
	}
	return all, nil
}
