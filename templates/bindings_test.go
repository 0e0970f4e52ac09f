package templates_test

import (
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/templates"
)

// A developer's SecretReference becomes the bindings of the build, which waits for them; whatever else stands in its
// place breaks no run. One
// that does not say that builds may read it, such as that of a Git secret, gives nothing.
func TestBindingsOfARun(t *testing.T) {
	t.Parallel()
	for _, builder := range templates.Builders() {
		cluster := readYAML(t, "control-plane/"+builder.Workflow+".yaml")
		forBindings := map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{"stepwright.dev/bindings": "true"},
		}}
		var template any = forBindings
		render := func(bindings any) (map[string]map[string]any, string) {
			t.Helper()
			workflow, resources, err := renderRun(cluster, run{
				labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
				parameters: map[string]any{
					"repository": map[string]any{"url": "https://git.example.com/acme/cart.git"}, "bindings": bindings,
				},
				externalRefs: map[string]any{"bindings-reference": map[string]any{"spec": map[string]any{
					"template": template,
					"data": []any{map[string]any{
						"secretKey": "npm..npmrc", "remoteRef": map[string]any{"key": "npm", "property": "rc"},
					}},
				}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			env, err := stepVariables(t, workflow)
			if err != nil {
				t.Fatal(err)
			}
			return resources, env[builder.Template+" BINDINGS_REQUIRED"]
		}
		template = map[string]any{"metadata": map[string]any{
			"annotations": map[string]any{"stepwright.dev/bindings": "shop/till, shop/cart"},
		}}
		if resources, _ := render(map[string]any{"secretRef": "cart-bindings"}); at(
			resources["bindings"], "spec", "data", 0, "secretKey",
		) != "npm..npmrc" {
			t.Errorf("%s: the component that is named has no bindings: %v", builder.Workflow, resources["bindings"])
		}
		template = forBindings
		resources, required := render(map[string]any{"secretRef": "cart-bindings"})
		want := []any{map[string]any{
			"secretKey": "npm..npmrc", "remoteRef": map[string]any{"key": "npm", "property": "rc"},
		}}
		if diff := gocmp.Diff(want, at(resources["bindings"], "spec", "data")); diff != "" || required != "true" {
			t.Errorf("%s: BINDINGS_REQUIRED=%s, the Secret (-want +got)\n%s", builder.Workflow, required, diff)
		}
		if resources["git-secret"] != nil {
			t.Errorf("%s: the bindings are a Git secret", builder.Workflow)
		}
		for about, other := range map[string]any{
			"no template": nil, "no annotations": map[string]any{"type": "kubernetes.io/basic-auth"},
			"another annotation": map[string]any{"metadata": map[string]any{
				"annotations": map[string]any{"stepwright.dev/git-hosts": "true"},
			}},
			"another value": map[string]any{"metadata": map[string]any{
				"annotations": map[string]any{"stepwright.dev/bindings": "false"},
			}},
			"another component": map[string]any{"metadata": map[string]any{
				"annotations": map[string]any{"stepwright.dev/bindings": "shop/till,bank/*"},
			}},
			"the annotation of build secrets": map[string]any{"metadata": map[string]any{
				"annotations": map[string]any{"stepwright.dev/build-secrets": "true"},
			}},
		} {
			template = other
			resources, required := render(map[string]any{"secretRef": "git-credentials"})
			data, _ := at(resources["bindings"], "spec", "data").([]any)
			key := at(data, 0, "remoteRef", "key")
			if len(data) != 1 || key != "stepwright.dev-bindings-is-not-annotated" || required != "true" {
				t.Errorf("%s: a SecretReference with %s gives %v", builder.Workflow, about, data)
			}
		}
		template = forBindings
		for about, value := range strange {
			resources, required := render(map[string]any{"secretRef": value})
			if none := value == nil || value == ""; (required == "false") != none {
				t.Errorf("%s: secretRef is %s: BINDINGS_REQUIRED=%s", builder.Workflow, about, required)
			}
			name, _ := value.(string)
			if resources["bindings"] != nil && (name == "" || strings.ContainsAny(name, "{$[:")) {
				t.Errorf("%s: secretRef is %s, and there is a Secret", builder.Workflow, about)
			}
			if resources, required := render(value); resources["bindings"] != nil || required != "false" {
				t.Errorf("%s: bindings is %s: BINDINGS_REQUIRED=%s", builder.Workflow, about, required)
			}
		}
	}
}
