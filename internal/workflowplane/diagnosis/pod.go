package diagnosis

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// probeName stands for project, component and image of what is no component's.
const probeName = "stepwright-doctor"

// asProbe are the variables of a step that only looks. The rest is as the platform has set it.
var asProbe = map[string]string{
	"CHECK_ONLY": "true", "MAX_ATTEMPTS": "2", "SECRET_TIMEOUT": "90", "LOG_FORMAT": "text",
	"IMAGE_NAME": probeName, "PROJECT_NAME": probeName, "COMPONENT_NAME": probeName,
	"FAILURES": "", "BUILD_SECRETS": "[]",
}

// pod is the pod that Argo makes for a step's template, without Argo's own containers: with the same image, volumes,
// rights, labels and account. Its step only looks.
func (p *probing) pod(name string, cluster *wfv1.ClusterWorkflowTemplate) (*corev1.Pod, error) {
	if len(cluster.Spec.Templates) != 1 || cluster.Spec.Templates[0].Container == nil {
		return nil, fmt.Errorf("it has not one template with a container")
	}
	template, err := expanded(&cluster.Spec.Templates[0], p.values(name, &cluster.Spec.Templates[0]))
	if err != nil {
		return nil, err
	}
	container := template.Container.DeepCopy()
	container.Name = "main"
	set := map[string]bool{}
	for i, v := range container.Env {
		if value, ok := asProbe[v.Name]; ok {
			container.Env[i].Value = value
		}
		set[v.Name] = true
	}
	if !set["CHECK_ONLY"] {
		container.Env = append(container.Env, corev1.EnvVar{Name: "CHECK_ONLY", Value: "true"})
	}
	spec := p.workflow.Spec
	seconds := int64(podPatience.Seconds())
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: p.workflow.Name + "-" + name, Namespace: p.workflow.Namespace,
			Labels: map[string]string{probeLabel: p.workflow.Name},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, ActiveDeadlineSeconds: &seconds,
			ServiceAccountName: spec.ServiceAccountName, SecurityContext: template.SecurityContext,
			NodeSelector: spec.NodeSelector, Tolerations: spec.Tolerations,
			PriorityClassName: spec.PodPriorityClassName, HostUsers: hostUsers(template.PodSpecPatch),
			Volumes: template.Volumes, Containers: []corev1.Container{*container},
		},
	}
	for key, value := range template.Metadata.Labels {
		pod.Labels[key] = value
	}
	workspace := corev1.VolumeSource{EmptyDir: new(corev1.EmptyDirVolumeSource)}
	if p.claim != "" {
		workspace = corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: p.claim},
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{
		Name: p.workflow.Spec.VolumeClaimTemplates[0].Name, VolumeSource: workspace,
	})
	return pod, nil
}

// values are what Argo would put in the place of parameters, as far as a run knows them before it begins.
func (p *probing) values(name string, template *wfv1.Template) map[string]string {
	all := map[string]string{
		"workflow.uid": "00000000-0000-0000-0000-000000000000", "workflow.name": p.workflow.Name,
		"workflow.creationTimestamp": time.Now().UTC().Format(time.RFC3339),
	}
	for _, given := range p.workflow.Spec.Arguments.Parameters {
		if given.Value != nil {
			all["workflow.parameters."+given.Name] = given.Value.String()
		}
	}
	for _, in := range template.Inputs.Parameters {
		value := ""
		if in.Default != nil {
			value = in.Default.String()
		}
		all["inputs.parameters."+in.Name] = value
	}
	for _, t := range p.workflow.Spec.Templates {
		for _, group := range t.Steps {
			for _, step := range group.Steps {
				if step.TemplateRef == nil || step.TemplateRef.Name != name {
					continue
				}
				for _, given := range step.Arguments.Parameters {
					// What other steps hand over is not known, and its default does.
					if given.Value != nil && !strings.Contains(given.Value.String(), "{{steps.") {
						all["inputs.parameters."+given.Name] = expand(given.Value.String(), all)
					}
				}
			}
		}
	}
	return all
}

var expression = regexp.MustCompile(`{{([a-zA-Z0-9_.-]+)}}`)

// expand puts values in the place of parameters. One that is not known stays.
func expand(text string, values map[string]string) string {
	return expression.ReplaceAllStringFunc(text, func(found string) string {
		if value, ok := values[strings.Trim(found, "{}")]; ok {
			return value
		}
		return found
	})
}

// expanded is a template with values in the place of parameters, within its texts.
func expanded(template *wfv1.Template, values map[string]string) (*wfv1.Template, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	escaped := make(map[string]string, len(values))
	for name, value := range values {
		quoted, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		escaped[name] = string(quoted[1 : len(quoted)-1])
	}
	result := new(wfv1.Template)
	return result, json.Unmarshal([]byte(expand(string(raw), escaped)), result)
}

// hostUsers is what a patch of pods says of user namespaces; nil: nothing.
func hostUsers(patch string) *bool {
	var spec struct {
		HostUsers *bool `json:"hostUsers"`
	}
	if yaml.Unmarshal([]byte(patch), &spec) != nil {
		return nil
	}
	return spec.HostUsers
}
