package main

import (
	"encoding/json"
	"path/filepath"
	"strconv"

	"github.com/stepwright/stepwright/ci/pipeline"
	"github.com/stepwright/stepwright/ci/workflowrun"
)

// workloadFile is where the last step leaves the Workload, in the workspace.
const workloadFile = "workload-cr.yaml"

// steps are those of the ClusterWorkflow dockerfile-builder, with the names and parameters of contract section 1.
func (o *runOptions) steps(run *workflowrun.Run, plane *plane, workspace string) []pipeline.Step {
	step := func(name string, parameters func(pipeline.Results) map[string]string) pipeline.Step {
		return pipeline.Step{
			Name:    name,
			Program: filepath.Join(o.stepsDir, name),
			Parameters: func(done pipeline.Results) map[string]string {
				p := parameters(done)
				p["workspace"] = workspace
				p["ca-bundle"] = o.caBundle
				return p
			},
		}
	}
	repository := run.Text("repository", "url")
	branch, commit := run.Text("repository", "revision", "branch"), run.Text("repository", "revision", "commit")
	secretRef := run.Text("repository", "secretRef")
	if plane.repository != "" {
		repository, branch, commit, secretRef = plane.repository, sourceBranch, "", ""
	}
	return []pipeline.Step{
		step("checkout-source", func(pipeline.Results) map[string]string {
			return map[string]string{
				"git-repo": repository, "branch": branch, "commit": commit,
				"git-secret-dir": o.gitSecretDir, "git-secret-required": strconv.FormatBool(secretRef != ""), "git-secret-timeout": "0",
			}
		}),
		step("containerfile-build", func(pipeline.Results) map[string]string {
			return map[string]string{
				"docker-context": run.Text("docker", "context"), "dockerfile-path": run.Text("docker", "filePath"),
				"build-env": run.Text("buildEnv"), "build-args": run.Text("buildArgs"),
				"build-secrets-dir": o.buildSecretsDir, "registry-pull-secret": o.dockerConfig,
				"buildkit-root":    plane.buildCache,
				"registry-mirrors": jsonText(plane.mirrors), "insecure-registries": jsonText(plane.insecure),
			}
		}),
		step("publish-image", func(done pipeline.Results) map[string]string {
			return map[string]string{
				"registry": plane.registry, "insecure-plain-http": strconv.FormatBool(plane.registryPlainHTTP),
				"registry-push-secret": o.dockerConfig,
				"image-name":           run.Namespace + "-" + run.Project() + "-" + run.ComponentName(), "image-tag": "v1",
				"git-revision": done["git-revision"],
			}
		}),
		step("generate-workload-cr", func(done pipeline.Results) map[string]string {
			return map[string]string{
				"namespace-name": run.Namespace, "project-name": run.Project(), "component-name": run.ComponentName(),
				"run-name": run.Name, "app-path": run.Text("repository", "appPath"), "image": done["image"],
				"api-server-url": plane.apiServerURL, "oauth-token-url": plane.tokenURL, "oauth-client-id": plane.clientID,
				"oauth-client-secret-file": plane.clientSecretFile, "oauth-scope": o.scope,
				"insecure-plain-http": strconv.FormatBool(o.plainHTTP),
				"output":              filepath.Join(workspace, workloadFile),
			}
		}),
	}
}

// jsonText writes a list the way a parameter takes it.
func jsonText(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // lists of strings
	}
	return string(raw)
}
