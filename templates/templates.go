// Package templates holds the ClusterWorkflowTemplates and ClusterWorkflows as they are installed, for stepwright run
// to run them, the builders of buildpacks that they are made from, and the version of all.
package templates

import (
	"embed"
	"strings"
)

// Files are the two folders that kubectl apply -k installs.
//
//go:embed workflow-plane/*.yaml control-plane/*.yaml
var Files embed.FS

//go:embed VERSION
var version string

// Version is the version of templates, images and programs, such as 1.2.3. The file VERSION is its home; make generate
// writes it wherever else it is.
func Version() string { return strings.TrimSpace(version) }

// PlaneLabel is on every object that is installed. It tells which cluster the object is for: workflow or control.
const PlaneLabel = "stepwright.dev/plane"
