// Package templates holds the ClusterWorkflowTemplates and ClusterWorkflows as they are installed, for stepwright run
// to run them, and the builders of buildpacks that they are made from.
package templates

import "embed"

// Files are the two folders that kubectl apply -k installs.
//
//go:embed workflow-plane/*.yaml control-plane/*.yaml
var Files embed.FS
