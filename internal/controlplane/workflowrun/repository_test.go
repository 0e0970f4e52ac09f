package workflowrun

import (
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// A workflow of somebody else's marks the parameters that say where the source is, wherever they stand.
func TestRepository(t *testing.T) {
	t.Parallel()
	const workflow = `---
apiVersion: openchoreo.dev/v1alpha1
kind: Workflow
metadata: {name: own, namespace: acme}
spec:
  parameters:
    openAPIV3Schema:
      type: object
      properties:
        git:
          type: object
          properties:
            where: {type: string, x-openchoreo-component-parameter-repository-url: true}
            ref: {type: string, default: trunk, x-openchoreo-component-parameter-repository-branch: true}
  runTemplate:
    apiVersion: argoproj.io/v1alpha1
    kind: Workflow
    metadata: {name: x, namespace: "${metadata.namespace}"}
`
	own := strings.NewReplacer("ClusterWorkflow", "Workflow", "dockerfile-builder", "own")
	text := own.Replace(strings.Split(run, "    parameters:")[0]) +
		"    parameters: {git: {where: \"https://git.example.com/own.git\"}}\n" + workflow
	for name, test := range map[string]struct {
		text string
		want map[RepositoryField]string
	}{
		"ours": {run, map[RepositoryField]string{
			RepositoryURL:    "repository.url=https://git.example.com/cart.git",
			RepositoryBranch: "repository.revision.branch=main",
			RepositoryCommit: "repository.revision.commit=", AppPath: "repository.appPath=.",
			SecretRef: "repository.secretRef=",
		}},
		"another": {text, map[RepositoryField]string{
			RepositoryURL: "git.where=https://git.example.com/own.git", RepositoryBranch: "git.ref=trunk",
			RepositoryCommit: "=", AppPath: "=", SecretRef: "=",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := new(objects.Set)
			set.Read("a.yaml", []byte(test.text))
			r, err := Of(set, "", false)
			if err != nil {
				t.Fatal(err)
			}
			for field, want := range test.want {
				if got := strings.Join(r.RepositoryPath(field), ".") + "=" + r.Repository(field); got != want {
					t.Errorf("%s: %s, want %s", field, got, want)
				}
			}
		})
	}
}
