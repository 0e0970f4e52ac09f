package objects

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
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

// admit fills in the definition's defaults and returns the fields that it does not know, which kubectl has the API
// server refuse, and what the API server refuses anyway.
func (d *definition) admit(fields map[string]any) (unknown []string, refused field.ErrorList) {
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
	malformed := validation.ValidateCustomResource(nil, fields, d.validator)
	if len(malformed) == 0 && d.rules != nil { // rules expect values of the right form
		malformed, _ = d.rules.Validate(context.Background(), nil, d.structural, fields, nil, math.MaxInt64)
	}
	return unknown, append(refused, malformed...)
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
