package registry

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// Load reads a docker configuration file, such as a mounted kubernetes.io/dockerconfigjson Secret, and makes its
// credentials secret. An empty path, and a file that does not exist, give a configuration without credentials.
// Credential helpers that the file names are left out: a step starts no program that a Secret chooses.
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
		return nil, outcome.Errorf(
			outcome.AuthenticationFailed, "registry credentials: %s is not a docker configuration file", path,
		)
	}
	config.CredentialsStore, config.CredentialHelpers = "", nil
	for _, auth := range config.AuthConfigs {
		secrets.Add(auth.Password, auth.Auth, auth.IdentityToken, auth.RegistryToken)
		secrets.Add(base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password))) // as it travels
	}
	return config, nil
}

// Find returns the credentials for a repository, given with its host and without a tag, and the key of the
// configuration they stand under. As Kubernetes and Podman do, it prefers the longest key that is the repository or one
// of its parents, down to the host. Key and repository may name Docker Hub in any of its ways. It returns false when
// there are none, or only empty ones.
func Find(config *configfile.ConfigFile, repository string) (auth types.AuthConfig, key string, found bool) {
	wanted := plain(repository)
	longest := 0
	for k, a := range config.AuthConfigs {
		if a.Password == "" && a.IdentityToken == "" && a.RegistryToken == "" {
			continue
		}
		parent := plain(k)
		if parent != wanted && !strings.HasPrefix(wanted, parent+"/") || len(parent) < longest {
			continue
		}
		if len(parent) == longest && k > key { // two spellings of one key: the same one is found each time
			continue
		}
		auth, key, found, longest = a, k, true, len(parent)
	}
	return auth, key, found
}

// plain is a key of a docker configuration without what it may have around host and path: https://index.docker.io/v1/
// is docker.io.
func plain(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	for _, version := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, version)
	}
	host, path, slash := strings.Cut(key, "/")
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = "docker.io"
	}
	if slash {
		return host + "/" + path
	}
	return host
}
