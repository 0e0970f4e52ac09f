package cli

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/pki"
)

// The secrets of a whole run, each with a value that stands nowhere else.
var canaries = map[string]string{
	"Git password":      "canary-git-5d1c0f7a",
	"registry password": "canary-registry-8e24b6",
	"build secret":      "canary-build-c90b73e1",
	"client secret":     "canary-oauth-4f6a2d85",
}

// A run with every kind of secret, against servers with TLS that ask for them: each secret is used, and none is found
// in what the run printed, or left in the workspace, the registry, the API or the temporary folder.
func TestNoSecretIsLeftAnywhere(t *testing.T) {
	secrets := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(secrets, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate, authority := certify(t)
	caBundle := write("ca.crt", authority)
	write("git/username", "builder")
	write("git/password", canaries["Git password"]+"\n")
	write("build/token", canaries["build secret"])
	clientSecret := write("client-secret", canaries["client secret"]+"\n")

	// The Dockerfile proves that it got the secret by its hash, and is careless with the secret itself: it prints it.
	dockerfile := "FROM busybox:1\nRUN --mount=type=secret,id=token,required=true sha256sum /run/secrets/token | " +
		"cut -c1-64 > /proof && cat /run/secrets/token && echo && cat /run/secrets/token >&2\n"
	source := project(t, dockerfile, `{repository: {url: "https://git.example.com/x.git"}}`)
	repositories := t.TempDir()
	if _, err := devgit.Import(
		t.Context(), filepath.Join(source, "source"), filepath.Join(repositories, "cart.git"), "first",
		time.Unix(1767225600, 0),
	); err != nil {
		t.Fatal(err)
	}
	gitServer := serve(t, certificate, &devgit.Handler{
		Root:     repositories,
		Username: "builder",
		Password: canaries["Git password"],
	})

	registryDir := t.TempDir()
	registry, err := devregistry.New(devregistry.Options{
		Dir:         registryDir,
		Users:       map[string]string{"pusher": canaries["registry password"]},
		Certificate: &certificate,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	host, err := registry.Start("")
	if err != nil {
		t.Fatal(err)
	}
	login := base64.StdEncoding.EncodeToString([]byte("pusher:" + canaries["registry password"]))
	dockerConfig := write("config.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, login))

	apiDir := t.TempDir()
	cluster, err := devidp.New(devidp.Options{Issuer: "https://kubernetes.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	api, err := devapi.New(devapi.Options{
		Dir: apiDir, ClientID: "publisher", ClientSecret: canaries["client secret"],
		Trusted: []devidp.Trusted{cluster.Trusted("", map[string]string{"me": "publisher"})},
	})
	if err != nil {
		t.Fatal(err)
	}
	run := project(t, "", fmt.Sprintf(`{repository: {url: "%s/cart.git", secretRef: git-credentials}, `+
		`buildSecrets: [{name: token, secretRef: cart-token}]}`, gitServer))
	for _, file := range []string{"component.yaml", "run.yaml"} {
		raw, err := os.ReadFile(filepath.Join(run, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := api.Apply(raw); err != nil {
			t.Fatal(err)
		}
	}
	apiServer := serve(t, certificate, api)

	state := t.TempDir()
	given := []string{"run", "--keep", "--state", state, "--ca-bundle", caBundle,
		"--git-secret-dir", filepath.Join(secrets, "git"), "--build-secrets-dir", filepath.Join(secrets, "build"),
		"--registry", host, "--docker-config", dockerConfig, "--api-server-url", apiServer, "--oauth-client-id",
		"publisher", run,
	}
	got, temp := stepwright(t, withStandIns(t, append(given, "--oauth-token-url", apiServer+devapi.TokenPath,
		"--oauth-client-secret-file", clientSecret)...)...)
	if got.code != 0 {
		t.Fatalf("exit code %d\n%s", got.code, got.stderr)
	}
	if w, err := api.Workload("acme", "cart-workload"); err != nil || w == nil ||
		!strings.HasPrefix(w.Spec.Container.Image, host+"/acme_shop_cart:v1-") {
		t.Errorf("%+v, %v", w, err)
	}

	found := map[string][]string{} // secret to places
	look := func(place string, content []byte) {
		for secret, value := range canaries {
			for _, form := range []string{value, base64.StdEncoding.EncodeToString([]byte(value)), login} {
				if bytes.Contains(content, []byte(form)) {
					found[secret] = append(found[secret], place)
				}
			}
		}
	}
	look("standard output", []byte(got.stdout))
	look("standard error", []byte(got.stderr))
	files := 0
	for _, dir := range []string{temp, registryDir, apiDir, state} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			look(path, raw)
			if zipped, err := gzip.NewReader(bytes.NewReader(raw)); err == nil {
				if raw, err = io.ReadAll(zipped); err != nil {
					return err
				}
				look(path+" (unzipped)", raw)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 50 {
		t.Errorf("only %d files were looked at", files)
	}
	for secret, places := range found {
		t.Errorf("the %s is in %s", secret, strings.Join(places, ", "))
	}
	if !strings.Contains(got.stderr, "***") {
		t.Error("nothing was masked, although the build prints its secret")
	}

	// A client without a secret has an assertion for the identity provider that the API names.
	assertion, err := cluster.Sign(map[string]any{
		"sub": "me", "aud": apiServer, "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Delete("acme", devapi.Workloads, "cart-workload"); err != nil {
		t.Fatal(err)
	}
	again, _ := stepwright(t, withStandIns(t, append(given, "--oauth-client-assertion-file",
		write("assertion", assertion))...)...)
	if w, err := api.Workload("acme", "cart-workload"); again.code != 0 || err != nil || w == nil {
		t.Errorf("exit code %d, %+v, %v\n%s", again.code, w, err, again.stderr)
	}
	if strings.Contains(again.stdout+again.stderr, assertion) {
		t.Error("the assertion is shown")
	}
}

// serve serves a handler over TLS on loopback, and returns its URL.
func serve(t *testing.T, certificate tls.Certificate, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// certify makes a certificate for loopback, and returns that of its authority as PEM.
func certify(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	authority, err := pki.NewAuthority("canaries")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Server("loopback", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := issued.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return certificate, string(authority.PEM())
}
