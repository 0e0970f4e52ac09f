package container

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli/config"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/filelock"
)

// ImageError says that an image cannot be had.
type ImageError struct {
	Image string
	Err   error
}

func (e *ImageError) Error() string { return fmt.Sprintf("image %s: %v", e.Image, e.Err) }

func (e *ImageError) Unwrap() error { return e.Err }

// image is one that is unpacked.
type image struct {
	root   string
	config v1.Config
}

const (
	rootName         = "root"
	configName       = "config.json"
	unfinishedPrefix = ".unfinished-"
)

// kept is how long an unpacked image stays that nobody uses.
const kept = 14 * 24 * time.Hour

// image unpacks an image that is not there yet. One that is named by its digest is found without asking a registry.
func (r *Runtime) image(ctx context.Context, reference string, log func(string)) (image, error) {
	ref, err := r.reference(reference)
	if err != nil {
		return image{}, &ImageError{reference, err}
	}
	unlock, err := filelock.Exclusive(ctx, filepath.Join(r.Dir, ".lock"))
	if err != nil {
		return image{}, err
	}
	defer unlock()
	var pulled v1.Image
	var digest string
	if pinned, ok := ref.(name.Digest); ok {
		digest = pinned.DigestStr()
	} else if pulled, err = r.pull(ctx, ref); err != nil {
		return image{}, &ImageError{reference, err}
	} else if hash, err := pulled.Digest(); err != nil {
		return image{}, &ImageError{reference, err}
	} else {
		digest = hash.String()
	}
	dir := filepath.Join(r.Dir, strings.ReplaceAll(digest, ":", "-")+"-"+runtime.GOARCH)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		log("Unpacking " + reference + ", once")
		started := time.Now()
		if pulled == nil {
			if pulled, err = r.pull(ctx, ref); err != nil {
				return image{}, &ImageError{reference, err}
			}
		}
		if err := r.unpack(ctx, pulled, dir); err != nil {
			return image{}, &ImageError{reference, err}
		}
		log(fmt.Sprintf("Unpacked it, took %s", time.Since(started).Round(100*time.Millisecond)))
		if err := r.removeOld(ctx); err != nil {
			return image{}, err
		}
	}
	found := image{root: filepath.Join(dir, rootName)}
	raw, err := os.ReadFile(filepath.Join(dir, configName))
	if err == nil {
		err = json.Unmarshal(raw, &found.config)
	}
	if err != nil {
		return image{}, err
	}
	now := time.Now()
	return found, os.Chtimes(dir, now, now)
}

// reference is where to pull from.
func (r *Runtime) reference(reference string) (name.Reference, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return nil, err
	}
	host := strings.Replace(ref.Context().RegistryStr(), name.DefaultRegistry, "docker.io", 1)
	if mirror := r.Mirrors[host]; mirror != "" {
		host = mirror
	}
	separator := ":"
	if _, ok := ref.(name.Digest); ok {
		separator = "@"
	}
	var options []name.Option
	if slices.Contains(r.Insecure, host) {
		options = append(options, name.Insecure)
	}
	return name.ParseReference(host+"/"+ref.Context().RepositoryStr()+separator+ref.Identifier(), options...)
}

func (r *Runtime) pull(ctx context.Context, ref name.Reference) (v1.Image, error) {
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	if r.CABundle != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		pem, err := os.ReadFile(r.CABundle)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", r.CABundle)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	auth, err := r.credentials(ref.Context().RegistryStr())
	if err != nil {
		return nil, err
	}
	return remote.Image(ref, remote.WithContext(ctx), remote.WithTransport(transport), remote.WithAuth(auth),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
}

// credentials are those that the docker configuration has for a registry.
func (r *Runtime) credentials(registry string) (authn.Authenticator, error) {
	if r.DockerConfig == "" {
		return authn.Anonymous, nil
	}
	file, err := os.Open(r.DockerConfig)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	all, err := config.LoadFromReader(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.DockerConfig, err)
	}
	if registry == name.DefaultRegistry {
		registry = authn.DefaultAuthKey
	}
	own, err := all.GetAuthConfig(registry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.DockerConfig, err)
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: own.Username, Password: own.Password, Auth: own.Auth, IdentityToken: own.IdentityToken,
		RegistryToken: own.RegistryToken,
	}), nil
}

// unpack writes an image's files, with their owners, and its configuration beside the folder, and moves it there when
// it is whole. Manifest and layers are verified by their digests as they come.
func (r *Runtime) unpack(ctx context.Context, from v1.Image, into string) error {
	file, err := from.ConfigFile()
	if err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(r.Dir, unfinishedPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = run(asRoot(context.WithoutCancel(ctx), "rm", "-rf", "--", unfinished)) }()
	root := filepath.Join(unfinished, rootName)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	files := mutate.Extract(from)
	defer files.Close()
	tar := asRoot(ctx, "tar", "--extract", "--preserve-permissions", "--numeric-owner", "--directory", root)
	tar.Stdin = files
	if err := run(tar); err != nil {
		return err
	}
	raw, err := json.Marshal(file.Config)
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(root, 0o755), os.Chmod(unfinished, 0o755),
		os.WriteFile(filepath.Join(unfinished, configName), raw, 0o644), os.Rename(unfinished, into))
}

// removeOld removes what nobody has used for long, and what killed processes have left.
func (r *Runtime) removeOld(ctx context.Context) error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return err
	}
	var old []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && entry.IsDir() && (strings.HasPrefix(entry.Name(), unfinishedPrefix) ||
			time.Since(info.ModTime()) > kept) {
			old = append(old, filepath.Join(r.Dir, entry.Name()))
		}
	}
	if old == nil {
		return nil
	}
	return run(asRoot(ctx, "rm", append([]string{"-rf", "--"}, old...)...))
}
