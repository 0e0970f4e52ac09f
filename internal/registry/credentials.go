package registry

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
)

// Credentials are the credentials in a docker configuration file. Nil has none.
type Credentials struct {
	Path string // of the file; empty when there is none

	byKey   map[string]types.AuthConfig // as they stand in the file, the empty ones, too
	helpers *configfile.ConfigFile      // whose helpers are asked, too; nil when none may be run
}

// LoadCredentials reads a docker configuration file, such as a mounted kubernetes.io/dockerconfigjson Secret, and makes
// its credentials secret. An empty path, and a file that does not exist, give no credentials. Credential helpers that
// the file names are left out: a step starts no program that a Secret chooses.
func LoadCredentials(path string, secrets *redact.Secrets) (*Credentials, error) {
	c, _, err := load(path, secrets)
	return c, err
}

// LoadOwnCredentials is LoadCredentials for the file of the person who runs the program. It lets the file's credential
// helpers run.
func LoadOwnCredentials(path string, secrets *redact.Secrets) (*Credentials, error) {
	c, file, err := load(path, secrets)
	if err == nil && (file.CredentialsStore != "" || len(file.CredentialHelpers) > 0) {
		c.helpers = file
	}
	return c, err
}

func load(path string, secrets *redact.Secrets) (*Credentials, *configfile.ConfigFile, error) {
	c, file := &Credentials{Path: path, byKey: map[string]types.AuthConfig{}}, configfile.New(path)
	if path == "" {
		return c, file, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, file, nil
	}
	if err != nil {
		return nil, nil, outcome.Errorf(outcome.AuthenticationFailed, "registry credentials: %w", err)
	}
	defer f.Close()
	if err := file.LoadFromReader(f); err != nil {
		// The error may quote the file, and so the credentials.
		return nil, nil, outcome.Errorf(
			outcome.AuthenticationFailed, "registry credentials: %s is not a docker configuration file", path,
		)
	}
	for key, auth := range file.AuthConfigs {
		secrets.Add(auth.Password, auth.Auth, auth.IdentityToken, auth.RegistryToken)
		secrets.Add(base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password))) // as it travels
		c.byKey[key] = auth
	}
	return c, file, nil
}

// Keys returns the keys of the file's entries, also of empty ones, in order.
func (c *Credentials) Keys() []string {
	if c == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(c.byKey))
}

// Find returns the credentials for a repository, given with its host and without a tag, and the key of the file they
// stand under. As Kubernetes and Podman do, it prefers the longest key that is the repository or one of its parents,
// down to the host. Key and repository may name Docker Hub in any of its ways. It returns false when there are none, or
// only empty ones.
func (c *Credentials) Find(repository string) (auth types.AuthConfig, key string, found bool) {
	wanted := Name(repository)
	return c.best(func(parent string) (int, bool) {
		return len(parent), parent == wanted || strings.HasPrefix(wanted, parent+"/")
	})
}

// FindHost returns the credentials for a registry, given by its host. It is for BuildKit, which does not tell the
// repository: the entry of the host counts, or else the entry of the shortest path on that host.
func (c *Credentials) FindHost(host string) (auth types.AuthConfig, key string, found bool) {
	wanted := Name(host)
	return c.best(func(key string) (int, bool) {
		return -len(key), key == wanted || strings.HasPrefix(key, wanted+"/")
	})
}

// best returns the credentials whose key has the highest rate. rate takes a key's name, and tells whether it fits at
// all.
func (c *Credentials) best(rate func(name string) (int, bool)) (auth types.AuthConfig, key string, found bool) {
	var highest int
	for _, k := range c.Keys() { // in order: of two spellings of one key, the same one is found each time
		a := c.byKey[k]
		if a.Password == "" && a.IdentityToken == "" && a.RegistryToken == "" {
			continue
		}
		if rating, fits := rate(keyName(k)); fits && (!found || rating > highest) {
			auth, key, found, highest = a, k, true, rating
		}
	}
	return auth, key, found
}

// keyName is the Name of a key without the version of the protocol that docker login writes after some hosts:
// https://index.docker.io/v1/ is docker.io.
func keyName(key string) string {
	name := Name(key)
	if host, path, _ := strings.Cut(name, "/"); path == "v1" || path == "v2" {
		return host
	}
	return name
}

// Authenticator returns the credentials to speak to a repository with, given with its host and without a tag: what Find
// finds, or else what a credential helper has, or else nothing.
func (c *Credentials) Authenticator(repository string) (authn.Authenticator, error) {
	found, _, ok := c.Find(repository)
	if !ok && c != nil && c.helpers != nil {
		host, _, _ := strings.Cut(Name(repository), "/")
		var err error
		if found, err = c.helpers.GetAuthConfig(host); err != nil {
			return nil, outcome.Errorf(outcome.AuthenticationFailed, "registry credentials: %s: %w", c.Path, err)
		}
	}
	config := authn.AuthConfig{
		Username:      found.Username,
		Password:      found.Password,
		IdentityToken: found.IdentityToken,
		RegistryToken: found.RegistryToken,
	}
	if config == (authn.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(config), nil
}
