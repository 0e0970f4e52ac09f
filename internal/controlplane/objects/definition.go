package objects

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apimachineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/crds"
)

// definition is a custom resource definition, ready to do what the API server does with it.
type definition struct {
	namespaced bool
	structural *schema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator // nil when there are none
}

// definitions are the CRDs of package crds by kind.
var definitions = sync.OnceValue(func() map[string]*definition {
	all := map[string]*definition{}
	entries, err := crds.Files.ReadDir(".")
	for _, e := range entries {
		var raw []byte
		if raw, err = crds.Files.ReadFile(e.Name()); err != nil {
			break
		}
		var crd apiextensionsv1.CustomResourceDefinition
		if err = yaml.Unmarshal(raw, &crd); err != nil {
			break
		}
		if all[crd.Spec.Names.Kind], err = newDefinition(&crd); err != nil {
			break
		}
	}
	if err != nil {
		panic(fmt.Sprintf("objects: %v", err)) // embedded
	}
	return all
})

func newDefinition(crd *apiextensionsv1.CustomResourceDefinition) (*definition, error) {
	var props apiextensions.JSONSchemaProps
	source := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		source, &props, nil,
	); err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	return &definition{
		namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		structural: structural, validator: validator, rules: cel.NewValidator(structural, true, celconfig.PerCallLimit),
	}, nil
}

// Admit does with an object of one of OpenChoreo's kinds what the API server does before it stores it: it drops the
// fields that the definition does not know, fills in its defaults, and returns its faults, by field. The object is
// changed. The stored object that it replaces is nil when it is new.
func Admit(kind string, fields, stored map[string]any) field.ErrorList {
	_, refused := definitions()[kind].admit(fields, stored)
	return refused
}

// admit fills in the definition's defaults and returns the fields that it does not know, which kubectl has the API
// server refuse, and what the API server refuses anyway.
func (d *definition) admit(fields, stored map[string]any) (unknown []string, refused field.ErrorList) {
	if refused = textOnly(fields); len(refused) > 0 {
		return nil, refused
	}
	mistyped, unknown := objectmeta.CoerceWithOptions(nil, fields, d.structural, true, objectmeta.CoerceOptions{
		ReturnUnknownFieldPaths: true,
	})
	if mistyped != nil {
		mistyped.BadValue = field.OmitValueType{} // it is all of the metadata
		return unknown, field.ErrorList{mistyped}
	}
	unknown = append(unknown, pruning.PruneWithOptions(fields, d.structural, true, schema.UnknownFieldPathOptions{
		TrackUnknownFieldPaths: true,
	})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(fields, d.structural)
	defaulting.Default(fields, d.structural)

	var meta metav1.ObjectMeta
	metadata, _ := fields["metadata"].(map[string]any)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(metadata, &meta); err != nil {
		return unknown, field.ErrorList{field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error())}
	}
	if d.namespaced && meta.Namespace == "" {
		meta.Namespace = metav1.NamespaceDefault
	} else if !d.namespaced {
		meta.Namespace = ""
	}
	refused = apimachineryvalidation.ValidateObjectMeta(
		&meta, d.namespaced, apimachineryvalidation.NameIsDNSSubdomain, field.NewPath("metadata"),
	)
	refused = append(refused, validation.ValidateCustomResource(nil, fields, d.validator)...)
	refused = append(refused, objectmeta.Validate(nil, fields, d.structural, false)...)
	refused = append(refused, listtype.ValidateListSetsAndMaps(nil, d.structural, fields)...)
	// The validator has no order.
	slices.SortStableFunc(refused, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
	switch {
	case d.rules == nil:
	case slices.ContainsFunc(refused, blocking):
		refused = append(refused, unasked)
	default:
		var old any // nil, not an object without fields, which has rules about changes asked
		if stored != nil {
			old = stored
		}
		broken, _ := d.rules.Validate(context.Background(), nil, d.structural, fields, old, math.MaxInt64)
		refused = append(refused, broken...)
	}
	return unknown, refused
}

// unasked is what the API server says of rules that were not asked. They expect values of the right form.
var unasked = field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; "+
	"correct the existing errors to complete validation")

// blocking tells whether the API server asks no rules of an object with such a fault.
func blocking(err *field.Error) bool {
	switch err.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany,
		field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// textOnly refuses labels and annotations that are no text, by name: the API server's decoder says only that there is
// one.
func textOnly(fields map[string]any) field.ErrorList {
	var refused field.ErrorList
	metadata, _ := fields["metadata"].(map[string]any)
	for _, kind := range []string{"labels", "annotations"} {
		values, _ := metadata[kind].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if _, ok := values[key].(string); !ok {
				refused = append(
					refused,
					field.TypeInvalid(
						field.NewPath("metadata", kind).Key(key), values[key], "must be text: put it in quotes",
					),
				)
			}
		}
	}
	return refused
}
