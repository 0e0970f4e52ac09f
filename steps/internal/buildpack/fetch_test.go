package buildpack

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// Nothing is pulled anonymously where the credentials have not come.
func TestCredentialsThatNeverCome(t *testing.T) {
	t.Parallel()
	in := Parameters{
		RunImage: "127.0.0.1:1/run:1", FetchedDir: t.TempDir(), PullSecretRequired: true,
		RegistryPullSecret: filepath.Join(t.TempDir(), "pull-secret", "absent"),
		Awaited:            secret.Awaited{SecretKeys: []secret.Store{{Secret: "pull-secret", Key: "ci/pull"}}},
	}
	env := step.Environment{Log: slog.New(slog.DiscardHandler), Secrets: new(redact.Secrets)}
	_, err := fetch(t.Context(), in, env, new(times))
	const want = "Secret pull-secret (key ci/pull of the secret store): not there within 0 s: "
	if failure := outcome.Of(err); failure == nil || failure.Reason != outcome.AuthenticationFailed ||
		failure.Message != want+in.RegistryPullSecret {
		t.Errorf("%+v", failure)
	}
}
