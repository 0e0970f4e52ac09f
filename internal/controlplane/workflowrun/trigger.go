package workflowrun

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
)

// OfComponent adds to a set without faults the WorkflowRun that builds one of its Components, as
// `occ component workflow run` makes it, and returns it. Namespace and component may be empty where they choose no
// other: the set must hold one that fits. The time becomes a part of the run's name.
func OfComponent(set *objects.Set, namespace, component string, at time.Time) (*objects.Object, error) {
	if len(set.Faults) > 0 {
		return nil, invalid(set.Faults...)
	}
	var found []*objects.Object
	var names []string
	for _, o := range set.OfKind("Component") {
		names = append(names, o.Namespace+"/"+o.Name)
		if (component == "" || o.Name == component) && (namespace == "" || o.Namespace == namespace) {
			found = append(found, o)
		}
	}
	switch {
	case len(names) == 0:
		return nil, invalid(objects.Fault{
			Message: "there is neither a WorkflowRun nor a Component in these files; of a folder only the files " +
				"directly in it are read",
		})
	case len(found) == 0:
		wanted := strings.TrimPrefix(namespace+"/"+component, "/")
		return nil, invalid(objects.Fault{
			Message: fmt.Sprintf("there is no Component %s; there is %s", wanted, strings.Join(names, ", ")),
		})
	case len(found) > 1:
		return nil, invalid(objects.Fault{
			Message: fmt.Sprintf(
				"there are several Components; choose one of %s with --component and --namespace",
				strings.Join(names, ", "),
			),
		})
	}
	of, err := objects.Decode[v1alpha1.Component](found[0])
	if err != nil {
		return nil, invalid(found[0].Fault(nil, "", err.Error()))
	}
	if of.Spec.Workflow == nil || of.Spec.Workflow.Name == "" {
		return nil, invalid(found[0].Fault([]string{"spec", "workflow"}, "",
			"has no workflow: spec.workflow says how the component is built, or a WorkflowRun of its own does"))
	}
	run := set.Make(found[0], map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       "WorkflowRun",
		"metadata": map[string]any{
			"name":      nameOfRun(of.Name+"-build", at),
			"namespace": of.Namespace,
			"labels": map[string]any{
				ProjectLabel:   of.Spec.Owner.ProjectName,
				ComponentLabel: of.Name,
			},
		},
		"spec": map[string]any{"workflow": map[string]any{}},
	}, []string{"spec", "workflow", "kind"}, []string{"spec", "workflow", "name"}, parametersPath)
	return run, nil
}

// Again adds to a set the WorkflowRun that does what an earlier one did, under a new name, and returns it.
func Again(set *objects.Set, earlier *v1alpha1.WorkflowRun, at time.Time) (*objects.Object, error) {
	run := &v1alpha1.WorkflowRun{TypeMeta: earlier.TypeMeta, Spec: earlier.Spec}
	run.Namespace, run.Labels = earlier.Namespace, earlier.Labels
	run.Name = nameOfRun(stamp.ReplaceAllString(earlier.Name, ""), at)
	if err := set.ReadObject("WorkflowRun "+earlier.Namespace+"/"+earlier.Name, run); err != nil {
		return nil, err
	}
	return Pick(set, run.Name)
}

// stamp is the time at the end of a run's name: in milliseconds since 1970, or in seconds, as occ writes it.
var stamp = regexp.MustCompile(`-[0-9]{9,}$`)

// longestName is how many characters a run's name may have: it becomes the value of a label.
const longestName = 63

func nameOfRun(base string, at time.Time) string {
	ending := fmt.Sprintf("-%d", at.UnixMilli()) // in a second there may be several runs
	return strings.TrimRight(base[:min(len(base), longestName-len(ending))], "-.") + ending
}

// Set puts values of --set into a WorkflowRun of the set, and returns the changed one. Each is path=value. A path is
// written as occ takes it, such as spec.workflow.parameters.repository.revision.branch or list[0].name, and begins at
// the parameters where it begins neither with spec nor with metadata. A value that is JSON is that, unless the
// parameter is a text; all else is text. The error lists every fault.
func Set(set *objects.Set, run *objects.Object, settings []string) (*objects.Object, error) {
	before, err := objects.Decode[v1alpha1.WorkflowRun](run)
	if err != nil {
		return nil, invalid(run.Fault(nil, "", err.Error()))
	}
	workflow := before.Spec.Workflow
	var parameters []*schemas.Property // of our own workflows
	if isOurs(workflow.Kind, workflow.Name) {
		parameters = schemas.MustLoad(workflow.Name).Properties
	}
	var values []objects.Value
	var faults []string
	for _, setting := range settings {
		value, fault := parse(setting, parameters)
		if fault != "" {
			faults = append(faults, fault)
			continue
		}
		values = append(values, value)
	}
	if len(faults) > 0 {
		return nil, outcome.Misuse(faults...)
	}
	changed, err := set.Change(run, values...)
	if err != nil {
		return nil, outcome.Misuse(strings.Split(err.Error(), "\n")...)
	}
	if len(set.Faults) > 0 {
		return nil, invalid(set.Faults...)
	}
	after, err := objects.Decode[v1alpha1.WorkflowRun](changed)
	if err != nil {
		return nil, invalid(changed.Fault(nil, "", err.Error()))
	}
	if after.Spec.Workflow.Kind != workflow.Kind || after.Spec.Workflow.Name != workflow.Name {
		return nil, outcome.Misuse(
			"--set: spec.workflow.kind and spec.workflow.name say what runs, and stay as they are",
		)
	}
	return changed, nil
}

func parse(setting string, parameters []*schemas.Property) (objects.Value, string) {
	key, text, ok := strings.Cut(setting, "=")
	key = strings.TrimSpace(key)
	path := objects.Path(key)
	if !ok || len(path) == 0 {
		return objects.Value{}, fmt.Sprintf("--set %q is not of the form path=value", setting)
	}
	if path[0] != "spec" && path[0] != "metadata" {
		path = slices.Concat(parametersPath, path)
	}
	value := any(text)
	var parsed any
	if utiljson.Unmarshal([]byte(text), &parsed) == nil && !wantsText(parameters, path) {
		value = parsed
	}
	return objects.Value{Path: path, Value: value, Given: "--set " + key}, ""
}

// wantsText tells whether one of the parameters, at a path of a WorkflowRun, is a text.
func wantsText(parameters []*schemas.Property, path []string) bool {
	below := len(path) > len(parametersPath) && slices.Equal(path[:len(parametersPath)], parametersPath)
	if !below {
		return path[0] == "metadata"
	}
	var at *schemas.Property
	for _, step := range path[len(parametersPath):] {
		if at != nil && at.Items != nil {
			at = at.Items
		} else {
			i := slices.IndexFunc(parameters, func(p *schemas.Property) bool { return p.Name == step })
			if i < 0 {
				return false
			}
			at = parameters[i]
		}
		parameters = at.Properties
	}
	return at.Type == "string"
}
