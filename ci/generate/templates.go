package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
)

// clusterWorkflowTemplate has the fields that a README tells of.
type clusterWorkflowTemplate struct {
	Metadata struct {
		Name        string            `json:"name"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Templates []struct {
			Name   string `json:"name"`
			Inputs struct {
				Parameters []struct {
					Name    string  `json:"name"`
					Default *string `json:"default"`
				} `json:"parameters"`
			} `json:"inputs"`
			Outputs struct {
				Parameters []struct {
					Name      string `json:"name"`
					ValueFrom struct {
						Path string `json:"path"`
					} `json:"valueFrom"`
				} `json:"parameters"`
			} `json:"outputs"`
			SecurityContext map[string]any `json:"securityContext"`
			Volumes         []struct {
				Name   string `json:"name"`
				Secret *struct {
					SecretName string `json:"secretName"`
					Optional   bool   `json:"optional"`
				} `json:"secret"`
			} `json:"volumes"`
			InitContainers []container `json:"initContainers"`
			Container      container   `json:"container"`
		} `json:"templates"`
	} `json:"spec"`
}

type container struct {
	Name string `json:"name"`
	Env  []struct {
		Value string `json:"value"`
	} `json:"env"`
	SecurityContext map[string]any `json:"securityContext"`
	Resources       struct {
		Requests map[string]string `json:"requests"`
		Limits   map[string]string `json:"limits"`
	} `json:"resources"`
	VolumeMounts []volumeMount `json:"volumeMounts"`
}

type volumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
}

var (
	workflowParameter = regexp.MustCompile(`{{workflow\.parameters\.([a-z-]+)}}`)
	// whenAbsent says what the absence of an optional Secret means, by the name of its volume.
	whenAbsent = map[string]string{
		"git-secret":    "the repository is public, unless `git-secret-required`: then the step waits for it",
		"bindings":      "there are none, unless `bindings-required`: then the step waits for it",
		"build-secrets": "there are none, unless `build-secrets` names some: then the step waits for them",
		"commit-status": "the step waits for it, and tells the Git host nothing without it",
		"registry-pull-secret": "the step waits for it, and fails without it, unless " +
			"`pull-secret-required` is false",
		"registry-push-secret": "the step waits for it, and fails without it, unless " +
			"`push-secret-required` is false",
		"oauth-client-secret": "the step waits for it, and fails without it, unless it has an assertion",
	}
	described = map[string]string{
		"active-deadline-seconds": "How long the step may take in all, in seconds. Argo ends it then.",
	}
)

// templatesPage tells of the ClusterWorkflowTemplates, given as their files' texts.
func templatesPage(files []string) (string, error) {
	var b strings.Builder
	for _, text := range files {
		var t clusterWorkflowTemplate
		if err := yaml.Unmarshal([]byte(text), &t); err != nil {
			return "", err
		}
		if err := t.describe(&b); err != nil {
			return "", fmt.Errorf("%s: %w", t.Metadata.Name, err)
		}
	}
	return b.String(), nil
}

func (t *clusterWorkflowTemplate) describe(b *strings.Builder) error {
	template := t.Spec.Templates[0]
	schema, err := schemas.Load(t.Metadata.Annotations["stepwright.dev/schema"])
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "\n## %s\n\n%s Template `%s`.\n\n| input parameter | default | meaning |\n|---|---|---|\n",
		t.Metadata.Name, t.Metadata.Annotations["workflows.argoproj.io/description"], template.Name)
	for _, p := range template.Inputs.Parameters {
		about, ok := described[p.Name]
		if i := slices.IndexFunc(schema.Properties, func(q *schemas.Property) bool {
			return q.Name == p.Name
		}); i >= 0 {
			about, ok = schema.Properties[i].Description, true
		}
		if !ok {
			return fmt.Errorf("nothing describes the parameter %s", p.Name)
		}
		value := "required"
		if p.Default != nil {
			value = "–"
			if *p.Default != "" {
				value = "`" + *p.Default + "`"
			}
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", p.Name, value, cell(about))
	}
	var from []string
	for _, c := range append([]container{template.Container}, template.InitContainers...) {
		for _, v := range c.Env {
			m := workflowParameter.FindStringSubmatch(v.Value)
			if m != nil && !slices.Contains(from, "`"+m[1]+"`") {
				from = append(from, "`"+m[1]+"`")
			}
		}
	}
	fmt.Fprintf(b, "\nWorkflow parameters: %s.\n\n| output | file |\n|---|---|\n", strings.Join(from, ", "))
	for _, p := range template.Outputs.Parameters {
		fmt.Fprintf(b, "| `%s` | `%s` |\n", p.Name, p.ValueFrom.Path)
	}
	b.WriteString("\n| secret | at | when it is absent |\n|---|---|---|\n")
	for _, v := range template.Volumes {
		if v.Secret == nil {
			continue
		}
		at := "–"
		for _, m := range template.Container.VolumeMounts {
			if m.Name == v.Name {
				at = "`" + m.MountPath + "`"
			}
		}
		for _, c := range template.InitContainers {
			for _, m := range c.VolumeMounts {
				if m.Name == v.Name {
					at = "`" + m.MountPath + "`, of the init container `" + c.Name + "` only"
				}
			}
		}
		absent := "the pod waits for it"
		if v.Secret.Optional {
			absent = whenAbsent[v.Name]
		}
		fmt.Fprintf(
			b, "| `%s` | %s | %s |\n", workflowParameter.ReplaceAllString(v.Secret.SecretName, "<$1>"), at, absent,
		)
	}
	pod, err := json.Marshal(template.SecurityContext)
	if err != nil {
		return err
	}
	container, err := json.Marshal(template.Container.SecurityContext)
	if err != nil {
		return err
	}
	r := template.Container.Resources
	fmt.Fprintf(
		b, "\nSecurity: pod `%s`, container `%s`.\n\nRequests %s, limits %s.\n", pod, container, amounts(r.Requests),
		amounts(r.Limits),
	)
	for _, c := range template.InitContainers {
		fmt.Fprintf(
			b, "\nIts init container `%s` requests %s, limits %s.\n", c.Name, amounts(c.Resources.Requests),
			amounts(c.Resources.Limits),
		)
	}
	return nil
}

func amounts(list map[string]string) string {
	var all []string
	for _, name := range []string{"cpu", "memory", "ephemeral-storage"} {
		all = append(all, name+" "+list[name])
	}
	return strings.Join(all, ", ")
}

// cell is a text inside a table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// workflowsPage tells of the ClusterWorkflows.
func workflowsPage(workflows []workflow) (string, error) {
	var b strings.Builder
	for _, w := range workflows {
		if err := w.describe(&b); err != nil {
			return "", fmt.Errorf("%s: %w", w.schema.Name, err)
		}
	}
	return b.String(), nil
}

func (w workflow) describe(b *strings.Builder) error {
	var object struct {
		Spec struct {
			RunTemplate struct {
				Spec struct {
					Templates []struct {
						Steps [][]struct {
							Name        string `json:"name"`
							TemplateRef struct {
								Name     string `json:"name"`
								Template string `json:"template"`
							} `json:"templateRef"`
						} `json:"steps"`
					} `json:"templates"`
				} `json:"spec"`
			} `json:"runTemplate"`
			Resources []struct {
				ID          string `json:"id"`
				IncludeWhen string `json:"includeWhen"`
			} `json:"resources"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(w.text), &object); err != nil {
		return err
	}
	parametersTable(b, w.schema.Name, w.schema.Description, leaves("", w.schema.Properties))
	b.WriteString("\n| step | ClusterWorkflowTemplate | template |\n|---|---|---|\n")
	for _, group := range object.Spec.RunTemplate.Spec.Templates[0].Steps {
		for _, step := range group {
			fmt.Fprintf(b, "| `%s` | `%s` | `%s` |\n", step.Name, step.TemplateRef.Name, step.TemplateRef.Template)
		}
	}
	b.WriteString("\n| ExternalSecret | made |\n|---|---|\n")
	for _, r := range object.Spec.Resources {
		when := "for every run"
		if r.IncludeWhen != "" {
			when = "when `" + map[string]string{
				"bindings": bindingsSecretRef, "build-secrets": buildSecretsParameter, "git-secret": secretRef,
			}[r.ID] + "` names a SecretReference"
		}
		fmt.Fprintf(b, "| `<run>-%s` | %s |\n", r.ID, when)
	}
	return nil
}
