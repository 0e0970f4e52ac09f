package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
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

// Credentials are the credentials in a docker configuration file. Nil has none. As JSON they keep what a file says,
// and not the programs that it leaves credentials to.
type Credentials struct {
	Path string // of the file; empty when there is none

	byKey   map[string]types.AuthConfig // as they stand in the file, the empty ones, too
	broken  map[string]bool             // keys whose entries cannot be read
	store   string                      // suffix of the program that has all other credentials
	perHost map[string]string           // suffixes of programs that have those of a host
	helpers *configfile.ConfigFile      // whose programs are asked, too; nil when none may be run
}

// LoadCredentials reads a docker configuration file, such as a mounted kubernetes.io/dockerconfigjson Secret, and makes
// its credentials secret. An empty path, and a file that does not exist, give no credentials. Credential helpers that
// the file names are left out: a step starts no program that a Secret chooses. An entry that cannot be read is an error
// only for those who need it.
func LoadCredentials(path string, secrets *redact.Secrets) (*Credentials, error) {
	c := &Credentials{Path: path, byKey: map[string]types.AuthConfig{}, broken: map[string]bool{}}
	if path == "" {
		return c, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.AuthenticationFailed, "registry credentials: %w", err)
	}
	var file struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredsStore  string                     `json:"credsStore"`
		CredHelpers map[string]string          `json:"credHelpers"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		// The error may quote the file, and so the credentials.
		return nil, outcome.Errorf(
			outcome.AuthenticationFailed, "registry credentials: %s is not a docker configuration file", path,
		)
	}
	c.store, c.perHost = file.CredsStore, file.CredHelpers
	for key, entry := range file.Auths {
		auth, err := readEntry(entry)
		secrets.Add(auth.Password, auth.Auth, auth.IdentityToken, auth.RegistryToken)
		secrets.Add(base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password))) // as it travels
		if c.byKey[key] = auth; err != nil {
			c.broken[key] = true
		}
	}
	return c, nil
}

// readEntry reads one entry of a docker configuration file. What it could read it returns also with an error.
func readEntry(raw json.RawMessage) (auth types.AuthConfig, err error) {
	if err := json.Unmarshal(raw, &auth); err != nil || auth.Auth == "" {
		return auth, err
	}
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth.Auth))
	user, password, ok := strings.Cut(string(decoded), ":")
	if err != nil || !ok || user == "" {
		return auth, errors.New("auth is not user:password in base64")
	}
	auth.Username, auth.Password = user, strings.Trim(password, "\x00") // as docker does
	return auth, nil
}

// LoadOwnCredentials is LoadCredentials for the file of the person who runs the program. It lets the file's credential
// helpers run.
func LoadOwnCredentials(path string, secrets *redact.Secrets) (*Credentials, error) {
	c, err := LoadCredentials(path, secrets)
	if err == nil && (c.store != "" || len(c.perHost) > 0) {
		c.helpers = configfile.New(path)
		c.helpers.CredentialsStore, c.helpers.CredentialHelpers = c.store, c.perHost
	}
	return c, err
}

// stored is Credentials as JSON.
type stored struct {
	Path   string
	ByKey  map[string]types.AuthConfig
	Broken map[string]bool
}

// MarshalJSON implements json.Marshaler.
func (c *Credentials) MarshalJSON() ([]byte, error) {
	return json.Marshal(stored{c.Path, c.byKey, c.broken})
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Credentials) UnmarshalJSON(raw []byte) error {
	var s stored
	err := json.Unmarshal(raw, &s)
	*c = Credentials{Path: s.Path, byKey: s.ByKey, broken: s.Broken}
	return err
}

// Helper returns the suffix of the program that the file leaves a host's credentials to, and that is not run; empty
// when there is none.
func (c *Credentials) Helper(host string) string {
	if c == nil || c.helpers != nil {
		return ""
	}
	for key, helper := range c.perHost {
		if keyName(key) == Name(host) {
			return helper
		}
	}
	return c.store
}

// Warning says of which credentials the file only tells the programs that have them; empty when it has all.
func (c *Credentials) Warning() string {
	if c == nil || c.helpers != nil {
		return ""
	}
	left := map[string]bool{}
	for key, auth := range c.byKey {
		if c.store != "" && isEmpty(auth) {
			left[key] = true
		}
	}
	for key := range c.perHost {
		if auth, ok := c.byKey[key]; !ok || isEmpty(auth) {
			left[key] = true
		}
	}
	if c.store != "" && len(c.byKey) == 0 {
		left["all other registries"] = true
	}
	if len(left) == 0 {
		return ""
	}
	return fmt.Sprintf(
		"%s leaves the credentials for %s to credential helpers, programs that a step does not have: write them into "+
			"the file itself", c.Path, strings.Join(slices.Sorted(maps.Keys(left)), ", "),
	)
}

func isEmpty(auth types.AuthConfig) bool {
	return auth.Password == "" && auth.IdentityToken == "" && auth.RegistryToken == ""
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
		if isEmpty(a) && !c.broken[k] {
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
	found, key, ok := c.Find(repository)
	if ok && c.broken[key] {
		return nil, outcome.Errorf(
			outcome.AuthenticationFailed, "registry credentials: the entry of %s in %s cannot be read", key, c.Path,
		).WithHint("Its auth is the base64 of user:password; docker login and kubectl create secret write it.")
	}
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
