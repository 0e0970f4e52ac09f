// Package registryauth reads the credentials for registries.
package registryauth

import (
	"errors"
	"io/fs"
	"os"

	"github.com/docker/cli/cli/config/configfile"

	"github.com/stepwright/stepwright/steps/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/redact"
)

// Load reads a docker configuration file, such as a mounted kubernetes.io/dockerconfigjson Secret, and makes its credentials secret.
// An empty path, and a file that does not exist, give a configuration without credentials. Credential helpers that the file names are
// left out: a step starts no program that a Secret chooses.
func Load(path string, secrets *redact.Secrets) (*configfile.ConfigFile, error) {
	config := configfile.New(path)
	if path == "" {
		return config, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.AuthenticationFailed, "registry credentials: %w", err)
	}
	defer f.Close()
	if err := config.LoadFromReader(f); err != nil {
		// The error may quote the file, and so the credentials.
		return nil, outcome.Errorf(outcome.AuthenticationFailed, "registry credentials: %s is not a docker configuration file", path)
	}
	config.CredentialsStore, config.CredentialHelpers = "", nil
	for _, auth := range config.AuthConfigs {
		secrets.Add(auth.Password, auth.Auth, auth.IdentityToken, auth.RegistryToken)
	}
	return config, nil
}
