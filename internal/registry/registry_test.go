package registry_test

import (
	"slices"
	"testing"

	"github.com/stepwright/stepwright/internal/registry"
)

func TestName(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ given, want string }{
		"host":                      {"registry.example.com", "registry.example.com"},
		"host with a port":          {"localhost:5000", "localhost:5000"},
		"repository":                {"registry.example.com/Team/app", "registry.example.com/Team/app"},
		"capital letters":           {"Registry.Example.COM/app", "registry.example.com/app"},
		"scheme":                    {"https://registry.example.com", "registry.example.com"},
		"scheme and slash":          {"http://registry.example.com/", "registry.example.com"},
		"Docker Hub":                {"docker.io", "docker.io"},
		"Docker Hub, shouted":       {"DOCKER.IO", "docker.io"},
		"Docker Hub in ggcr":        {"index.docker.io/library/busybox", "docker.io/library/busybox"},
		"Docker Hub's own address":  {"registry-1.docker.io", "docker.io"},
		"host that only begins so":  {"docker.io.example.com", "docker.io.example.com"},
		"repository named so":       {"registry.example.com/docker.io", "registry.example.com/docker.io"},
		"version, a repository too": {"registry.example.com/v1", "registry.example.com/v1"},
		"nothing":                   {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := registry.Name(test.given); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestMirrorsOf(t *testing.T) {
	t.Parallel()
	mirrors := []registry.Mirror{
		{Registry: "docker.io", Mirror: "first.example.com"},
		{Registry: "quay.io", Mirror: "quay.example.com:5000"},
		{Registry: "https://index.docker.io", Mirror: "second.example.com/hub/"},
		{Registry: "GHCR.IO", Mirror: "shouted.example.com"},
		{Registry: "https://gcr.io/v2/", Mirror: "login.example.com"},
	}
	for name, test := range map[string]struct {
		host string
		want []string
	}{
		"all of a registry, in order": {"docker.io", []string{"first.example.com", "second.example.com/hub"}},
		"by another name": {"registry-1.docker.io",
			[]string{"first.example.com", "second.example.com/hub"}},
		"with a port":              {"quay.io", []string{"quay.example.com:5000"}},
		"none":                     {"registry.k8s.io", nil},
		"in capital letters":       {"ghcr.io", []string{"shouted.example.com"}},
		"as docker login writes":   {"gcr.io", []string{"login.example.com"}},
		"a mirror has none itself": {"first.example.com", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := registry.MirrorsOf(test.host, mirrors); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestIsInsecure(t *testing.T) {
	t.Parallel()
	insecure := []string{"registry.example.com:5000", "docker.io"}
	for host, want := range map[string]bool{
		"registry.example.com:5000": true,
		"REGISTRY.example.com:5000": true,
		"registry.example.com":      false,
		"index.docker.io":           true,
		"ghcr.io":                   false,
	} {
		if got := registry.IsInsecure(host, insecure); got != want {
			t.Errorf("%s: got %t, want %t", host, got, want)
		}
	}
}
