package workflowrun

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
)

// refusal is the beginning of a key that our ClusterWorkflows ask the store for where a SecretReference may not be
// read, or not so. What follows says why.
const refusal = "stepwright.dev-"

// refusals are the faults by what follows. The name of a build secret is the schema's affair.
var refusals = map[string]string{
	"bindings-is-not-annotated": "the SecretReference is not for bindings of this component: its annotation " +
		"stepwright.dev/bindings in spec.template.metadata has to be \"true\", or a list with PROJECT/COMPONENT",
	"build-secrets-is-not-annotated": "the SecretReference is not for builds of this component: its annotation " +
		"stepwright.dev/build-secrets in spec.template.metadata has to be \"true\", or a list with PROJECT/COMPONENT",
	"build-secret-has-no-such-key-or-several": "the SecretReference has not the one key that is meant: " +
		"without `key` it must have one alone, and else that one",
}

// refusedSecrets finds the SecretReferences of a run that its build would wait for in vain.
func refusedSecrets(o *objects.Object, run *v1alpha1.WorkflowRun, rendered *render.Output) (faults []objects.Fault) {
	for _, resource := range rendered.Resources {
		made, err := decoded[struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     struct {
				Data []struct{ RemoteRef struct{ Key string } }
			}
		}](resource)
		if err != nil || made.Kind != "ExternalSecret" {
			continue
		}
		var places [][]string // of the entries of data
		switch strings.TrimPrefix(made.Metadata.Name, run.Name) {
		case "-bindings":
			places = slices.Repeat([][]string{{"bindings", "secretRef"}}, len(made.Spec.Data))
		case "-build-secrets":
			places = referencing(run)
		}
		for i, entry := range made.Spec.Data {
			why, refused := strings.CutPrefix(entry.RemoteRef.Key, refusal)
			if refused && refusals[why] != "" && i < len(places) {
				faults = append(faults, o.Fault(slices.Concat(parametersPath, places[i]), "", refusals[why]))
			}
		}
	}
	return faults
}

// referencing are the places of the build secrets that name a SecretReference, in their order.
func referencing(run *v1alpha1.WorkflowRun) (places [][]string) {
	if run.Spec.Workflow.Parameters == nil {
		return nil
	}
	var parameters struct{ BuildSecrets []struct{ SecretRef string } }
	if err := json.Unmarshal(run.Spec.Workflow.Parameters.Raw, &parameters); err != nil {
		return nil
	}
	for i, secret := range parameters.BuildSecrets {
		if secret.SecretRef != "" {
			places = append(places, []string{"buildSecrets", strconv.Itoa(i), "secretRef"})
		}
	}
	return places
}

// decoded is an object as a type.
func decoded[T any](object map[string]any) (T, error) {
	var into T
	raw, err := json.Marshal(object)
	if err == nil {
		err = json.Unmarshal(raw, &into)
	}
	return into, err
}
