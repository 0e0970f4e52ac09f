package templates_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/workflow/common"
	"sigs.k8s.io/yaml"
)

// expansions are texts by which a developer would make Argo tell or do something, and that must arrive as they are.
var expansions = []string{
	"{{inputs.parameters.oauth-client-id}}", "{{workflow.parameters.registry-push-secret}}", "{{workflow.name}}",
	`{{=sprig.upper("x")}}`, "{{=1+1}}",
	"{{ inputs.parameters.registry }}", "{{{{workflow.name}}}}", "a{{workflow.uid}}b", "{{inputs.parameters}}",
	"{{workflow.parameters}}", "{{=inputs.parameters.image}}",
	"base64:e3t3b3JrZmxvdy5uYW1lfX0=", "base64:", "}}{{", "{{",
}

// Argo's own processing hands each step the developer's text unchanged.
func TestArgoExpandsNothingOfADeveloper(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	raw := readFile(t, dockerfileBuilder)
	const encode = `v.matches("[{][{]|[$][$(]|^base64:") ? "base64:" + base64.encode(bytes(v)) : v`
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
					"revision": map[string]any{"branch": text, "commit": text}, "submodules": text, "lfs": text,
				},
				"docker":   map[string]any{"context": text, "filePath": text, "target": text},
				"buildEnv": pairs, "buildArgs": pairs, "labels": pairs, "noCache": text,
				"buildSecrets": []any{map[string]any{"name": text, "value": text}},
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
			"generate-workload-cr APP_PATH", "checkout-source REPOSITORY_SUBMODULES", "checkout-source REPOSITORY_LFS"}
		build := at(workflow, "spec", "templates", 0, "steps", 1, 0, "name").(string)
		lists := []string{build + " BUILD_ENV", build + " LABELS"}
		if build == "containerfile-build" {
			texts = append(texts, build+" DOCKER_CONTEXT", build+" DOCKERFILE_PATH", build+" TARGET", build+" NO_CACHE")
			lists = append(lists, build+" BUILD_ARGS", build+" BUILD_SECRETS")
		} else {
			texts = append(texts, build+" APP_PATH", build+" REBUILD")
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

// decoded decodes a text as a step does.
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
		variables := slices.Clone(template.Container.Env)
		for _, c := range template.InitContainers {
			variables = append(variables, c.Env...)
		}
		for _, v := range variables {
			all[step+" "+v.Name] = v.Value
		}
	}
	return all, nil
}

// processed returns a Workflow's templates by step, filled in as Argo does it for pods.
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
		all[step.Name], err = common.ProcessArgs(ctx, installed(t)[step.TemplateRef.Name].GetTemplateByName(
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
