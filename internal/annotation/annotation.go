// Package annotation names the annotations that a run leaves on its WorkflowRun: what was built, or why nothing was
// (docs/developers/looking-at-runs.md).
package annotation

// The annotations, by what they tell.
const (
	Commit     = "stepwright.dev/commit"           // that was built, in full
	Branch     = "stepwright.dev/branch"           // or tag that the commit was found by
	Image      = "stepwright.dev/image-digest"     // of the image, or of its index
	Signature  = "stepwright.dev/signature-digest" // of the manifest with the image's signature
	SBOMs      = "stepwright.dev/sbom-digests"     // of its bills of materials, with commas between
	Reason     = "stepwright.dev/reason"           // why the run failed
	FailedStep = "stepwright.dev/failed-step"      // as the status's tasks name it
)
