package externalci_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
)

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

var (
	code     = regexp.MustCompile("`([^`\n]+)`")
	hyphened = regexp.MustCompile(`^[a-z]+(-[a-z]+)+$`)
	capitals = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)+$`)
	camel    = regexp.MustCompile(`^[A-Z][a-z]+([A-Z][a-z]+)*$`)
)

// TestDocsAreTrue compares the pages on external CI with the schema, the outcomes and the examples.
func TestDocsAreTrue(t *testing.T) {
	t.Parallel()
	known := map[string]bool{ // neither a parameter, a result nor a part of the examples
		"publish-image": true, "containerfile-build": true, "generate-workload-cr": true, "register-workload": true,
		"HTTPS_PROXY": true,
	}
	for _, step := range []string{"generate-workload-cr", "publish-image", "containerfile-build"} {
		for _, p := range schemas.MustLoad(step).Properties {
			known[p.Name] = true
			known[schemas.EnvName(p.Name)] = true
		}
	}
	for _, r := range schemas.Reasons() {
		known[r.Name] = true
	}
	var all strings.Builder
	for _, dir := range []string{examples, "../../examples/backstage"} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.Type().IsRegular() && filepath.Ext(path) != ".md" {
				all.WriteString(read(t, path))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, page := range []string{
		"../../docs/external-ci.md", examples + "/README.md", "../../examples/backstage/README.md",
	} {
		text := read(t, page)
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			word := m[1]
			if !hyphened.MatchString(word) && !capitals.MatchString(word) && !camel.MatchString(word) {
				continue
			}
			whole := regexp.MustCompile(`(^|[^\w-])` + regexp.QuoteMeta(word) + `($|[^\w-])`)
			if !known[word] && !whole.MatchString(all.String()) {
				t.Errorf("%s: there is no %s", page, word)
			}
		}
	}

	// Every reason that an API case ends with is explained.
	page := read(t, "../../docs/external-ci.md")
	_, troubles, _ := strings.Cut(page, "## When it fails")
	for _, tc := range apiCases() {
		if tc.reason != "Succeeded" && !strings.Contains(troubles, "| `"+tc.reason+"` |") {
			t.Errorf("%s is not in the table of troubles", tc.reason)
		}
	}
	// What the guide calls its credentials and secrets is what the examples use.
	for file, names := range map[string][]string{
		"jenkins/Jenkinsfile": {
			"workflows-credentials", "thunder-url", "openchoreo-api-url", "registry-credentials",
		},
		"jenkins/Jenkinsfile.without-docker": {
			"workflows-credentials", "thunder-url", "openchoreo-api-url", "registry-push-secret",
		},
		"github-actions/workflow.yml": {
			"OPENCHOREO_CLIENT_ID", "OPENCHOREO_CLIENT_SECRET", "THUNDER_URL", "OPENCHOREO_API_URL", "REGISTRY_USER",
			"REGISTRY_PASSWORD",
		},
		"gitlab/.gitlab-ci.yml": {"OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "THUNDER_URL", "OPENCHOREO_API_URL"},
	} {
		text := read(t, filepath.Join(examples, file))
		for _, name := range names {
			if !strings.Contains(text, name) || !strings.Contains(page, "`"+name+"`") {
				t.Errorf("%s is not both in %s and in docs/external-ci.md", name, file)
			}
		}
	}
}

// TestAuthorization: the role is of OpenChoreo's kinds, and allows the step's calls and no more.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	documents := strings.Split(read(t, filepath.Join(examples, "authorization.yaml")), "\n---\n")
	var role v1alpha1.ClusterAuthzRole
	var binding v1alpha1.ClusterAuthzRoleBinding
	for i, into := range []any{&role, &binding} {
		asJSON, err := yaml.YAMLToJSON([]byte(documents[i]))
		if err != nil {
			t.Fatal(err)
		}
		dec := json.NewDecoder(bytes.NewReader(asJSON))
		dec.DisallowUnknownFields()
		if err := dec.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"workload:view", "workload:create", "workload:update", "workflowrun:view", "workflowrun:update"}
	if !slices.Equal(role.Spec.Actions, want) {
		t.Errorf("actions %q", role.Spec.Actions)
	}
	mapping := binding.Spec.RoleMappings[0]
	if mapping.RoleRef.Name != role.Name || string(mapping.RoleRef.Kind) != role.Kind ||
		mapping.Scope.Namespace == "" || mapping.Scope.Project == "" {
		t.Errorf("%+v", mapping)
	}
	hint := read(t, "../../steps/internal/openchoreo/check.go")
	for _, action := range role.Spec.Actions {
		if !strings.Contains(hint, action) {
			t.Errorf("the hint about 403 does not name %s", action)
		}
	}
}
