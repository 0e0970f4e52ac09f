package externalci_test

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/guidetest"
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
		"HTTPS_PROXY": true, "dev-api": true,
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
		"../../docs/developers/external-ci.md", examples + "/README.md", "../../examples/backstage/README.md",
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
	page := read(t, "../../docs/developers/external-ci.md")
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
			"STEPWRIGHT_URL", "STEPWRIGHT_SHA256",
		},
		"jenkins/Jenkinsfile.without-docker": {
			"workflows-credentials", "thunder-url", "openchoreo-api-url", "registry-push-secret",
		},
		"github-actions/workflow.yml": {
			"OPENCHOREO_CLIENT_ID", "OPENCHOREO_CLIENT_SECRET", "THUNDER_URL", "OPENCHOREO_API_URL", "REGISTRY_USER",
			"REGISTRY_PASSWORD", "STEPWRIGHT_URL", "STEPWRIGHT_SHA256",
		},
		"github-actions/workflow-without-secret.yml": {
			"OPENCHOREO_CLIENT_ID", "OPENCHOREO_API_URL", "github-id-token",
		},
		"gitlab/without-secret.yml": {"OAUTH_CLIENT_ASSERTION", "THUNDER_URL"},
		"gitlab/.gitlab-ci.yml":     {"OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "THUNDER_URL", "OPENCHOREO_API_URL"},
	} {
		text := read(t, filepath.Join(examples, file))
		for _, name := range names {
			if !strings.Contains(text, name) || !strings.Contains(page, "`"+name+"`") {
				t.Errorf("%s is not both in %s and in docs/developers/external-ci.md", name, file)
			}
		}
	}
}

// TestGuideNamesSteps: what the guide says of the workflow's steps is so.
func TestGuideNamesSteps(t *testing.T) {
	t.Parallel()
	page, workflow := read(t, "../../docs/developers/external-ci.md"), read(t, examples+"/github-actions/workflow.yml")
	for _, name := range []string{"Build and push", "Register the Workload"} {
		if !strings.Contains(page, `step "`+name+`"`) || !strings.Contains(workflow, "- name: "+name+"\n") {
			t.Errorf("no step %q in the guide and in the workflow", name)
		}
	}
	for _, link := range []string{"component.yaml", "authorization.yaml"} {
		if _, err := os.Stat(filepath.Join(examples, link)); err != nil ||
			!strings.Contains(page, "(../../examples/external-ci/"+link+")") {
			t.Errorf("%s is not linked: %v", link, err)
		}
	}
	backstage := read(t, "../../examples/backstage/README.md")
	for _, want := range []string{"force-sync=", "rollout restart deployment", "OAuth App", "`repo`"} {
		if !strings.Contains(backstage, want) {
			t.Errorf("examples/backstage says nothing of %s", want)
		}
	}
}

// TestTryIt runs the lines of the guide that need no OpenChoreo, as they stand but for the port.
func TestTryIt(t *testing.T) {
	t.Parallel()
	lines := shellLines(t, "../../docs/developers/external-ci.md")
	dir, bin := t.TempDir(), t.TempDir()
	if out, code := command(
		t, "../..", os.Environ(), "go", "build", "-o", filepath.Join(bin, "stepwright"), "./cmd/stepwright",
	); code != 0 {
		t.Fatal(out)
	}
	if err := os.Symlink(binary("generate-workload-cr"), filepath.Join(bin, "generate-workload-cr")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(dir, examples[len("../../"):]), os.DirFS(examples)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	file := filepath.Join(t.TempDir(), "lines.sh")
	write(t, file, strings.ReplaceAll(strings.Join(lines, "\n"), "127.0.0.1:8090", address))
	environ := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	out, code := command(t, dir, environ, "sh", "-e", file)
	for _, want := range []string{
		"kind: Workload\n", "name: cart-workload\n", "image: registry.example.com/acme/cart:1\n",
	} {
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("exit code %d; no %q in\n%s", code, want, out)
		}
	}
}

// shellLines are the lines of a page that a comment promises to be run here.
func shellLines(t *testing.T, page string) []string {
	t.Helper()
	const claim = "These lines are run by go test ./ci/externalci."
	return strings.Split(strings.TrimSpace(guidetest.Blocks(t, page, claim)[0]), "\n")
}

// TestAuthorization: the role is of OpenChoreo's kinds, and allows the step's calls and no more.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	documents := strings.Split(read(t, filepath.Join(examples, "authorization.yaml")), "\n---\n")
	var role v1alpha1.ClusterAuthzRole
	var binding, byClientID v1alpha1.ClusterAuthzRoleBinding
	if len(documents) != 3 {
		t.Fatalf("%d documents", len(documents))
	}
	for i, into := range []any{&role, &binding, &byClientID} {
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
	if binding.Spec.Entitlement.Claim != "sub" || byClientID.Spec.Entitlement.Claim != "client_id" ||
		binding.Name == byClientID.Name {
		t.Errorf("bound by %+v and %+v", binding.Spec.Entitlement, byClientID.Spec.Entitlement)
	}
	byClientID.Spec.Entitlement.Claim = "sub"
	if !reflect.DeepEqual(binding.Spec, byClientID.Spec) {
		t.Errorf("the bindings differ in more than the claim: %+v, %+v", binding.Spec, byClientID.Spec)
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
