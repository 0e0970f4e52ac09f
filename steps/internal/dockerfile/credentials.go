package dockerfile

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// credentials hands a builder the credentials for the registries it pulls from, one by one as it asks. BuildKit's own
// provider would fetch tokens in this process, past the builder's CA bundle, and keep a file in the home directory.
type credentials struct {
	auth.UnimplementedAuthServer
	known *registry.Credentials
}

// Register makes credentials a session.Attachable.
func (c *credentials) Register(server *grpc.Server) { auth.RegisterAuthServer(server, c) }

// Credentials implements auth.AuthServer.
func (c *credentials) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	found, _, _ := c.known.FindHost(req.GetHost())
	if found.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: found.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: found.Username, Secret: found.Password}, nil
}

// platformSecrets are the files that the build cannot do without, of Secrets of the platform.
func (in Parameters) platformSecrets() (files []string) {
	if in.PullSecretRequired {
		files = append(files, in.RegistryPullSecret)
	}
	// What is missing of a folder that nobody waits for, the client of BuildKit tells.
	if in.BuildKitAddress != "" && in.BuildKitTLSDir != "" && in.SecretTimeout > 0 {
		files = append(files, filepath.Join(in.BuildKitTLSDir, "tls.key"))
	}
	return files
}

// buildSecret is one of the secrets that a run names.
type buildSecret struct {
	Name      string `json:"name"`
	SecretRef string `json:"secretRef"`
	Key       string `json:"key"`
}

// String tells the secret and where it comes from.
func (s buildSecret) String() string {
	if s.Key != "" {
		return fmt.Sprintf("%s (key %s of SecretReference %s)", s.Name, s.Key, s.SecretRef)
	}
	return fmt.Sprintf("%s (SecretReference %s)", s.Name, s.SecretRef)
}

// waitForSecrets reads the build secrets by name, and waits for those that the run names.
func (in Parameters) waitForSecrets(ctx context.Context, env step.Environment) (values map[string][]byte, err error) {
	var missing []string
	limit := time.Duration(in.SecretsTimeout) * time.Second
	there, err := secret.Await(ctx, env.Log, "Secret of the build", in.BuildSecretsDir, limit, func() (bool, error) {
		if values, err = readSecrets(in.BuildSecretsDir); err != nil {
			return false, err
		}
		missing = nil
		for _, wanted := range in.BuildSecrets {
			if _, ok := values[wanted.Name]; !ok {
				missing = append(missing, wanted.String())
			}
		}
		return len(missing) == 0, nil
	})
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "build-secrets: not in %s within %d s: %s", in.BuildSecretsDir,
			in.SecretsTimeout, strings.Join(missing, ", "),
		).WithHint(
			"Check that each secretRef names a SecretReference whose secret exists, that it has one key, or the key " +
				"that is named, and that its annotation stepwright.dev/build-secrets in spec.template.metadata is " +
				"\"true\" or lists this component as PROJECT/COMPONENT. One that is missing keeps the others away.",
		)
	}
	for _, value := range values {
		env.Secrets.Add(string(value))
	}
	return values, nil
}

// readSecrets reads the build secrets by name.
func readSecrets(dir string) (map[string][]byte, error) {
	values, err := secret.ReadDir(dir)
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "build-secrets-dir: %w", err)
	}
	for name, value := range values {
		if len(value) > secretsprovider.MaxSecretSize {
			return nil, outcome.Errorf(
				outcome.InvalidParameters, "build-secrets-dir: %s is larger than the %d bytes that BuildKit takes",
				name, secretsprovider.MaxSecretSize,
			)
		}
	}
	return values, nil
}
