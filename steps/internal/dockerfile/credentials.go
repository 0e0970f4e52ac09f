package dockerfile

import (
	"context"

	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/secret"
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

// readSecrets reads the build secrets by name.
func readSecrets(dir string, secrets *redact.Secrets) (map[string][]byte, error) {
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
		secrets.Add(string(value))
	}
	return values, nil
}
