package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	installed "github.com/stepwright/stepwright/templates"
)

// caBundlePath is where templates mount the ConfigMap with certificate authorities.
const caBundlePath = "/etc/stepwright/ca/ca.crt"

// plan renders a run as OpenChoreo does and makes the steps of the Argo Workflow that comes of it.
func (o *runOptions) plan(
	ctx context.Context, run *workflowrun.Run, plane *plane, scratch string,
) (map[string]any, []pipeline.Step, error) {
	library, err := o.library()
	if err != nil {
		return nil, nil, err
	}
	definition, err := library.Workflow(run.Spec.Workflow.Name)
	if err != nil {
		return nil, nil, err
	}
	from, err := o.withSource(run.WorkflowRun, plane.repository)
	if err != nil {
		return nil, nil, err
	}
	rendered, err := render.Render(render.Input{
		Run: from, Workflow: definition, SecretStore: "local",
		// Whatever the SecretReference is, here its Secret is --git-secret-dir.
		SecretReference: func(name string) *v1alpha1.SecretReference {
			return &v1alpha1.SecretReference{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: from.Namespace},
				Spec:       v1alpha1.SecretReferenceSpec{Data: []v1alpha1.SecretDataSource{}},
			}
		},
	})
	if err != nil {
		return nil, nil, err
	}
	workflow, err := plan.Decode(rendered.Workflow)
	if err != nil {
		return nil, nil, err
	}
	steps, err := plan.Plan(ctx, workflow, library, o.machine(run, library, plane, scratch))
	return rendered.Workflow, steps, err
}

// library is what a platform engineer would have installed: --templates, built if it has a kustomization, or else what
// this program has.
func (o *runOptions) library() (*plan.Library, error) {
	switch {
	case o.templates == "":
		return plan.Load(installed.Files)
	case !customized(o.templates):
		return plan.Load(os.DirFS(o.templates))
	}
	text, err := kustomize(o.templates)
	if err != nil {
		return nil, err
	}
	library := new(plan.Library)
	if err := library.Add(text); err != nil {
		return nil, fmt.Errorf("kustomize %s: %w", o.templates, err)
	}
	return library, nil
}

// withSource is the run with --source as its repository: public, and of one commit.
func (o *runOptions) withSource(run *v1alpha1.WorkflowRun, repository string) (*v1alpha1.WorkflowRun, error) {
	run = run.DeepCopy()
	if o.source == "" || run.Spec.Workflow.Parameters == nil {
		return run, nil
	}
	var parameters map[string]any
	numbers := json.NewDecoder(bytes.NewReader(run.Spec.Workflow.Parameters.Raw))
	numbers.UseNumber()
	if err := numbers.Decode(&parameters); err != nil {
		return nil, err
	}
	given, _ := parameters["repository"].(map[string]any)
	given["url"], given["secretRef"] = repository, ""
	given["revision"] = map[string]any{"branch": sourceBranch, "commit": ""}
	raw, err := json.Marshal(parameters)
	run.Spec.Workflow.Parameters = &runtime.RawExtension{Raw: raw}
	return run, err
}

// machine is this one: the Secrets are the developer's files, and the platform's settings the addresses of the plane.
func (o *runOptions) machine(run *workflowrun.Run, library *plan.Library, plane *plane, scratch string) plan.Machine {
	m := plan.Machine{
		Programs: o.stepsDir,
		Scratch:  scratch,
		Settings: map[string]map[string]string{
			// A Secret may come late; a folder that a developer names does not come much later.
			"checkout-source": {"git-secret-timeout": "10"},
			"containerfile-build": {
				"registry-mirrors":    jsonText(plane.mirrors),
				"insecure-registries": jsonText(plane.insecure),
			},
			"publish-image": {
				"registry": plane.registry, "insecure-plain-http": strconv.FormatBool(plane.registryPlainHTTP),
				"registry-mirrors": jsonText(plane.mirrors), "insecure-registries": jsonText(plane.insecure),
			},
			"generate-workload": {
				"api-server-url": plane.apiServerURL, "oauth-token-url": plane.tokenURL,
				"oauth-client-id": plane.clientID, "oauth-scope": o.scope,
				"insecure-plain-http": strconv.FormatBool(o.plainHTTP),
			},
		},
		Secrets: map[string]plan.Source{
			run.Name + "-registry-pull-secret": {Files: map[string]string{}},
			run.Name + "-registry-push-secret": {Files: map[string]string{}},
			run.Name + "-oauth-client-secret":  {Files: map[string]string{"client-secret": plane.clientSecretFile}},
		},
		ConfigMaps: map[string]plan.Source{},
		Volumes:    map[string]string{"buildkit": plane.buildCache},
		Mounts:     map[string]string{},
		Containers: &container.Runtime{
			Dir: plane.builders, Mirrors: plane.mirrors, Insecure: plane.insecure, DockerConfig: o.dockerConfig,
			CABundle: o.caBundle,
		},
		Images: map[string]string{},
	}
	for _, template := range library.WithSchema("buildpacks-build") {
		settings := map[string]string{
			"registry": plane.registry, "insecure-plain-http": strconv.FormatBool(plane.registryPlainHTTP),
			"registry-mirrors": jsonText(plane.mirrors), "insecure-registries": jsonText(plane.insecure),
		}
		if image := cmp.Or(o.builderImage, plane.builderImage); image != "" {
			settings["builder-image"], m.Images[template.Name] = image, image
		}
		if image := cmp.Or(o.runImage, plane.runImage); image != "" {
			settings["run-image"] = image
		}
		m.Settings[template.Name] = settings
	}
	if o.gitSecretDir != "" && o.source == "" {
		m.Secrets[run.Name+"-git-secret"] = plan.Source{Dir: o.gitSecretDir}
	}
	if o.dockerConfig != "" {
		for _, name := range []string{"-registry-pull-secret", "-registry-push-secret"} {
			m.Secrets[run.Name+name].Files[".dockerconfigjson"] = o.dockerConfig
		}
	}
	if o.buildSecretsDir != "" {
		m.Mounts["/etc/secrets/build-secrets"] = o.buildSecretsDir
	}
	if o.caBundle != "" {
		m.ConfigMaps["stepwright-ca-bundle"] = plan.Source{
			Files: map[string]string{filepath.Base(caBundlePath): o.caBundle},
		}
	}
	for _, settings := range m.Settings {
		settings["ca-bundle"] = "" // an overlay's is for registries and an API that are not those of this run
		if o.caBundle != "" {
			settings["ca-bundle"] = caBundlePath
		}
	}
	return m
}

// jsonText writes a list the way a parameter takes it.
func jsonText[T any](list []T) string {
	if list == nil {
		return "[]"
	}
	raw, err := json.Marshal(list)
	if err != nil {
		panic(err) // lists of strings
	}
	return string(raw)
}
