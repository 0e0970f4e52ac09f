package workload

import (
	"cmp"
	"context"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// nowhere is a component that is in no project, by which probe asks what the client may do.
const nowhere = "stepwright-check-of-no-component"

// probe looks whether the client gets a token, whether the API takes it, and whether the client may do what the step
// does. It changes nothing: what it offers the API to create is of a component that is not there.
func (in Parameters) probe(ctx context.Context, api *openchoreo.Client, env step.Environment) error {
	p := step.NewProbing(env)
	from := cmp.Or(in.TokenURL, in.APIServerURL)
	if in.TokenFile != "" {
		from = in.TokenFile
	}
	if !p.Look("oauth-token", redact.URL(from), func() (string, error) {
		return "gives a token to the client " + in.ClientID, env.Retry.Do(ctx, api.Authorize)
	}) {
		return p.End()
	}
	at := redact.URL(in.APIServerURL)
	read := func(kind openchoreo.Resource) func() (string, error) {
		return func() (string, error) {
			err := env.Retry.Do(ctx, func(ctx context.Context) error {
				_, err := api.Get(ctx, in.Namespace, kind, nowhere)
				if openchoreo.IsNotFound(err) { // so it may be looked for
					return nil
				}
				return err
			})
			return "takes the token, and lets the client read " + string(kind) + " of namespace " + in.Namespace, err
		}
	}
	if !p.Look("api", at, read(openchoreo.Workloads)) {
		return p.End()
	}
	p.Look("api-role", at, read(openchoreo.WorkflowRuns))
	p.Look("api-role", at, func() (string, error) {
		err := env.Retry.Do(ctx, func(ctx context.Context) error {
			err := api.Create(ctx, in.Namespace, openchoreo.Workloads, openchoreo.Object{
				"metadata": map[string]any{"name": nowhere, "namespace": in.Namespace},
				"spec": map[string]any{
					"owner":     map[string]any{"projectName": nowhere, "componentName": nowhere},
					"container": map[string]any{"image": "stepwright.invalid/check:1"},
				},
			})
			switch {
			case openchoreo.IsBadRequest(err): // it may, and the component is not there
				return nil
			case err == nil:
				return outcome.Errorf(
					outcome.WorkloadRejected, "the API has taken a Workload of a component that is not there: delete "+
						"the Workload %s of namespace %s", nowhere, in.Namespace,
				)
			}
			return err
		})
		return "lets the client create workloads in namespace " + in.Namespace, err
	})
	return p.End()
}
