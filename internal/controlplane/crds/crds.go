// Package crds holds custom resource definitions of OpenChoreo v1.2.3 (Apache-2.0), unchanged; a test compares them
// with its module.
package crds

import "embed"

// Files are the definitions, each named after its plural: workflowruns.yaml.
//
//go:embed *.yaml
var Files embed.FS
