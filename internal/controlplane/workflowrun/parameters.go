package workflowrun

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/schemas"
)

// parametersPath is where parameters are in WorkflowRuns and Components.
var parametersPath = []string{"spec", "workflow", "parameters"}

// checkParameters validates parameters by our own schema of that workflow, or else by the workflow's schema, and
// returns them with that schema's defaults; nil where no schema is known. OpenChoreo does not validate them: the steps
// find faults minutes later.
func checkParameters(
	set *objects.Set, o *objects.Object, namespace string, kind v1alpha1.WorkflowRefKind, name string,
	given *runtime.RawExtension,
) (map[string]any, []objects.Fault) {
	if isOurs(kind, name) {
		return stepParameters(o, name, given)
	}
	found := findWorkflow(set, namespace, kind, name)
	if found == nil {
		return nil, nil
	}
	workflow, err := objects.Decode[v1alpha1.Workflow](found)
	if err != nil {
		return nil, nil
	}
	props, err := render.Schema(workflow.Spec.Parameters)
	if err != nil || props == nil {
		return nil, nil // it is the workflow's fault
	}
	structural, err := schema.NewStructural(props)
	if err != nil {
		return nil, nil
	}
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return nil, nil
	}
	values := map[string]any{}
	if given != nil {
		if err := utiljson.Unmarshal(given.Raw, &values); err != nil {
			return nil, nil
		}
	}
	defaulting.Default(values, structural)
	var faults []objects.Fault
	scalars := o.Scalars(parametersPath...)
	for _, refusal := range validation.ValidateCustomResource(
		field.NewPath("spec", "workflow", "parameters"), values, validator,
	) {
		refusal.BadValue = field.OmitValueType{} // it may be a secret
		path, message := objects.Path(refusal.Field), refusal.ErrorBody()
		i := slices.IndexFunc(scalars, func(s objects.Scalar) bool { return slices.Equal(s.Path, path) })
		if i >= 0 && refusal.Type == field.ErrorTypeTypeInvalid &&
			objects.WantsText(structural, path[len(parametersPath):]) {
			message = scalars[i].Quote(arrives(path, scalars[i].Value))
		}
		faults = append(faults, o.Fault(path, "", message))
	}
	return values, faults
}

// stepParameters returns parameters with the defaults of our own schema of that ClusterWorkflow, as steps take them,
// and every fault of them.
func stepParameters(o *objects.Object, builder string, raw *runtime.RawExtension) (map[string]any, []objects.Fault) {
	given := map[string]any{}
	if raw != nil {
		dec := json.NewDecoder(bytes.NewReader(raw.Raw))
		dec.UseNumber()
		if err := dec.Decode(&given); err != nil {
			return nil, []objects.Fault{o.Fault(parametersPath, "", err.Error())}
		}
	}
	schema := schemas.MustLoad(builder)
	faults := unquoted(o, schema.Properties)
	schema.Soften(given)
	values := schema.WithDefaults(given)
	for _, f := range schema.Validate(values) {
		fault := o.Fault(slices.Concat(parametersPath, f.Path), "", f.Message)
		if !slices.ContainsFunc(faults, func(q objects.Fault) bool { return q.Field == fault.Field }) {
			faults = append(faults, fault)
		}
	}
	slices.SortStableFunc(faults, func(a, b objects.Fault) int { return cmp.Compare(a.Line, b.Line) })
	return values, faults
}
