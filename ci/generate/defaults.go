package main

import (
	"regexp"

	"github.com/stepwright/stepwright/schemas"
)

// attempts is the input of a ClusterWorkflowTemplate that says how often a step tries again.
var attempts = regexp.MustCompile(`(- name: max-attempts\n +default: )"[^"\n]*"`)

// withRetries returns the text of a ClusterWorkflowTemplate with the retries that the steps' schema has by default: one
// number for all steps, in one place.
func withRetries(template string) string {
	for _, p := range schemas.MustLoad("step").Properties {
		if p.Name == "max-attempts" {
			return attempts.ReplaceAllString(template, `${1}"`+schemas.Text(p.Default)+`"`)
		}
	}
	return template
}
