package workflowrun

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// A SecretReference that builds may not read, or of which nothing says which key is meant, is found before the run
// waits for it in vain.
func TestSecretsThatABuildMayNotRead(t *testing.T) {
	t.Parallel()
	const run = `apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: cart-1
  namespace: acme
  labels: {openchoreo.dev/project: shop, openchoreo.dev/component: cart}
spec:
  workflow:
    name: WORKFLOW
    parameters:
      repository: {url: "https://git.example.com/cart.git"}
`
	const reference = `---
apiVersion: openchoreo.dev/v1alpha1
kind: SecretReference
metadata: {name: NAME, namespace: acme}
spec:
  template: {metadata: {annotations: ANNOTATIONS}}
  data:
    - {secretKey: a, remoteRef: {key: a}}
    - {secretKey: b.type, remoteRef: {key: b}}
`
	const at = "WorkflowRun acme/cart-1: spec.workflow.parameters."
	for name, test := range map[string]struct {
		workflow, parameters, annotations string
		want                              []string
	}{
		"those that it may": {"dockerfile-builder", `
      buildSecrets:
        - {name: a, secretRef: one, key: a}
        - {name: b, secretRef: two, key: b.type}
`, `{stepwright.dev/build-secrets: "shop/cart"}`, nil},
		"no annotation, and no word on the key": {"dockerfile-builder", `
      buildSecrets:
        - {name: a, secretRef: one}
        - {name: b, secretRef: plain, key: b.type}
        - name: c
          secretRef: two
          key: c
`, `{stepwright.dev/build-secrets: "true"}`, []string{
			"13: " + at + "buildSecrets[0].secretRef: the SecretReference has not",
			"14: " + at + "buildSecrets[1].secretRef: the SecretReference is not",
			"16: " + at + "buildSecrets[2].secretRef: the SecretReference has not",
		}},
		"bindings": {
			"paketo-buildpacks-builder", "      bindings: {secretRef: one}\n",
			`{stepwright.dev/bindings: "shop/*"}`, nil,
		},
		"no bindings": {
			"paketo-buildpacks-builder", "      bindings: {secretRef: one}\n",
			`{stepwright.dev/bindings: "shop/till"}`,
			[]string{"12: " + at + "bindings.secretRef: the SecretReference is not"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			workflow, err := os.ReadFile("../../../templates/control-plane/" + test.workflow + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(run, "WORKFLOW", test.workflow, 1) + strings.TrimPrefix(test.parameters, "\n")
			for name, annotations := range map[string]string{
				"one": test.annotations, "two": test.annotations, "plain": "{}",
			} {
				text += strings.NewReplacer("NAME", name, "ANNOTATIONS", annotations).Replace(reference)
			}
			set := new(objects.Set)
			set.Read("a.yaml", []byte(text))
			set.Read("workflow.yaml", workflow)
			var got []string
			for _, f := range Check(set, true) {
				got = append(got, strings.TrimPrefix(f.String(), "a.yaml:"))
			}
			if !slices.EqualFunc(got, test.want, strings.HasPrefix) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(test.want, "\n  "))
			}
		})
	}
}
