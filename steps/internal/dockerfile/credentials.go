package dockerfile

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/steps/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/redact"
)

// credentialStore gives the credentials for a registry, empty ones when there are none.
type credentialStore interface {
	GetAuthConfig(registry string) (types.AuthConfig, error)
}

// credentials hands a builder the credentials for the registries it pulls from, one by one as it asks. BuildKit's own provider would
// fetch tokens in this process, past the builder's CA bundle, and keep a file in the home directory.
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

// secretLimit is how large a build secret may be, in bytes: BuildKit's own limit.
const secretLimit = 500 << 10

// readSecrets reads the files of a directory, such as a mounted Secret, by name. A directory that does not exist holds none.
func readSecrets(dir string, secrets *redact.Secrets) (map[string][]byte, error) {
	found := map[string][]byte{}
	if dir == "" {
		return found, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "build-secrets-dir: %w", err)
	}
	for _, entry := range entries {
		// Kubernetes mounts the files as links through a directory named ..data.
		if strings.HasPrefix(entry.Name(), "..") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "build-secrets-dir: %w", err)
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if info.Size() > secretLimit {
			return nil, outcome.Errorf(outcome.InvalidParameters, "build-secrets-dir: %s is larger than %d bytes", entry.Name(), secretLimit)
		}
		value, err := os.ReadFile(path)
		if err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "build-secrets-dir: %w", err)
		}
		secrets.Add(string(value))
		found[entry.Name()] = value
	}
	return found, nil
}
