// Package gate runs a check of the platform's on a built image before it is published: a scanner for vulnerabilities,
// or whatever else ends with an exit code.
//
// It is three programs, so that the check, which reads what strangers have built and may run their code, has nothing
// but what it must have. Prepare puts the image together, by the credentials to pull. Check runs the check in an image
// of the platform's, without credentials, and can write nothing that a later step reads. Decide says what came of it,
// where no process of the check is any more: of what the check left only texts are shown, and a report is read.
package gate

import (
	"context"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/handover"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// Parameters are the parameters in schemas/scan-gate.schema.json.
type Parameters struct {
	step.Common
	secret.Awaited
	CheckImage         string            `json:"check-image"`
	CheckCommand       []string          `json:"check-command"`
	CheckEnv           []step.NameValue  `json:"check-env"`
	CheckTimeout       int               `json:"check-timeout"` // seconds
	Severity           string            `json:"severity"`
	IgnoreFile         string            `json:"ignore-file"`
	ImageDigest        string            `json:"image-digest"`
	BaseImages         []string          `json:"base-images"`
	SourceDigest       string            `json:"source-digest"`
	Registry           string            `json:"registry"`
	InsecurePlainHTTP  bool              `json:"insecure-plain-http"`
	RegistryPullSecret string            `json:"registry-pull-secret"`
	PullSecretRequired bool              `json:"pull-secret-required"`
	RegistryMirrors    []registry.Mirror `json:"registry-mirrors"`
	InsecureRegistries []string          `json:"insecure-registries"`
	PreparedDir        string            `json:"prepared-dir"`
	HandoverDir        string            `json:"handover-dir"`
	CheckResultsDir    string            `json:"check-results-dir"`
}

// prepared is the folder in which Prepare leaves what is to be checked, and how it ended. The check can write nothing
// there.
func (in Parameters) prepared() handover.Folder {
	return handover.Folder{
		Dir: in.PreparedDir, Who: "prepare", Broken: outcome.InvalidParameters,
		Hint: "Run the commands prepare, check and decide one after the other.",
	}
}

// handover is the folder in which Check tells Decide how the check ended.
func (in Parameters) handover() handover.Folder {
	return handover.Folder{
		Dir: in.HandoverDir, Who: "the check", MayFail: mayFail, Broken: outcome.CheckFailed,
		Hint: "A check must leave alone what is not its own: it may write to its results and to /tmp.",
	}
}

// mayFail are the reasons that a check may end with.
var mayFail = map[outcome.Reason]bool{
	outcome.CheckFailed:       true,
	outcome.InvalidParameters: true,
	outcome.OutOfSpace:        true,
	outcome.Timeout:           true,
	outcome.Killed:            true,
	outcome.Failed:            true,
}

// leave writes how one of the programs ended for Decide to say, which is where people look. It fails only when that
// cannot be written, or when the program was told to end.
func leave(ctx context.Context, to handover.Folder, err error, env step.Environment) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	failure := outcome.Of(err)
	if failure != nil {
		env.Log.Error("The step will end with this", "reason", failure.Reason, "message", failure.Message)
	}
	return to.Write(failure, env.Secrets.String)
}
