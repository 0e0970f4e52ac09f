//go:build !argo36

package main

import (
	"github.com/argoproj/argo-workflows/v3/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v3/workflow/validate"
)

func validTemplate(g getters, template *v1alpha1.ClusterWorkflowTemplate, options validate.ValidateOpts) error {
	return validate.ValidateClusterWorkflowTemplate(nil, g, template, nil, options)
}

func validWorkflow(g getters, workflow *v1alpha1.Workflow, options validate.ValidateOpts) error {
	return validate.ValidateWorkflow(nil, g, workflow, nil, options)
}
