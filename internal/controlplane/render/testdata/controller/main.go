// Command controller renders runs with OpenChoreo's own code. A test puts it into a copy of OpenChoreo's module and
// builds it there, with the functions that it cannot import beside it: see oracle_test.go.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	workflowpipeline "github.com/openchoreo/openchoreo/internal/pipeline/workflow"
)

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var question struct {
			Run         *v1alpha1.WorkflowRun
			Workflow    v1alpha1.WorkflowSpec
			SecretStore string
			Refs        map[string]any
		}
		if err := in.Decode(&question); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			panic(err)
		}
		var answer struct {
			Workflow  map[string]any
			Resources []map[string]any
			Error     string
		}
		err := InjectServiceAccountName(question.Workflow.RunTemplate)
		if err == nil {
			var output *workflowpipeline.RenderOutput
			output, err = workflowpipeline.NewPipeline().Render(&workflowpipeline.RenderInput{
				WorkflowRun: question.Run,
				Workflow:    &v1alpha1.Workflow{Spec: question.Workflow},
				Context: workflowpipeline.WorkflowContext{
					NamespaceName: question.Run.Namespace, WorkflowRunName: question.Run.Name,
					Labels:        question.Run.Labels,
					ExternalRefs:  question.Refs,
					WorkflowPlane: workflowpipeline.WorkflowPlaneData{SecretStore: question.SecretStore},
				},
			})
			if err == nil {
				answer.Workflow = convertParameterValuesToStrings(output.Resource)
				for _, r := range output.Resources {
					answer.Resources = append(answer.Resources, r.Resource)
				}
			}
		}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := out.Encode(answer); err != nil {
			panic(err)
		}
	}
}
