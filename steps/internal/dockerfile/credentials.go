package dockerfile

import (
	"context"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
)

// credentialStore gives the credentials for a registry, empty ones when there are none.
type credentialStore interface {
	GetAuthConfig(registry string) (types.AuthConfig, error)
}

// credentials hands a builder the credentials for the registries it pulls from, one by one as it asks. BuildKit's own
// provider would fetch tokens in this process, past the builder's CA bundle, and keep a file in the home directory.
type credentials struct {
	auth.UnimplementedAuthServer
	store credentialStore
}

// Register makes credentials a session.Attachable.
func (c *credentials) Register(server *grpc.Server) { auth.RegisterAuthServer(server, c) }

// Credentials implements auth.AuthServer.
func (c *credentials) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	host := req.GetHost()
	if host == "registry-1.docker.io" {
		host = "https://index.docker.io/v1/" // as docker login names it
	}
	found, err := c.store.GetAuthConfig(host)
	if err != nil {
		return nil, err
	}
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
