package plan

import (
	"encoding/base64"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/templates"
)

var stepNames = []string{"checkout-source", "containerfile-build", "publish-image", "generate-workload-cr"}

// machine has an executable for every step, and Secrets as stepwright run gives them.
func machine(t *testing.T) Machine {
	t.Helper()
	programs := t.TempDir()
	for _, name := range stepNames {
		if err := os.WriteFile(filepath.Join(programs, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Machine{
		Programs: programs, Scratch: "/scratch",
		Secrets: map[string]Source{
			"cart-1-git-secret": {Dir: "/home/me/git"}, "cart-1-registry-pull-secret": {},
			"cart-1-registry-push-secret": {},
			"cart-1-oauth-client-secret":  {Files: map[string]string{"client-secret": "/home/me/client-secret"}},
		},
		Settings: map[string]map[string]string{
			"publish-image": {"registry": "127.0.0.1:5000", "ca-bundle": "/etc/stepwright/ca/ca.crt"},
		},
		Volumes: map[string]string{"buildkit": "/state/buildkit"},
	}
}

// edited is the library with texts of one file replaced; each must be there.
func edited(t *testing.T, file string, replace ...string) *Library {
	t.Helper()
	library := new(Library)
	found := false
	err := fs.WalkDir(templates.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(templates.Files, path)
		if err != nil {
			return err
		}
		text := string(raw)
		for i := 0; path == file && i < len(replace); i += 2 {
			if !strings.Contains(text, replace[i]) {
				t.Fatalf("%s does not hold %q", file, replace[i])
			}
			text = strings.Replace(text, replace[i], replace[i+1], 1)
		}
		found = found || path == file
		return library.Add([]byte(text))
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(replace) > 0 && !found {
		t.Fatalf("there is no file %s", file)
	}
	return library
}

// planRun plans a run with these parameters.
func planRun(t *testing.T, library *Library, machine Machine, parameters any) ([]pipeline.Step, error) {
	t.Helper()
	return planRunOf(t, "dockerfile-builder", library, machine, parameters)
}

// planRunOf is planRun for any ClusterWorkflow.
func planRunOf(
	t *testing.T, workflowName string, library *Library, machine Machine, parameters any,
) ([]pipeline.Step, error) {
	t.Helper()
	raw, err := json.Marshal(parameters)
	if err != nil {
		t.Fatal(err)
	}
	run := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{
		Name: "cart-1", Namespace: "acme",
		Labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
	}}
	run.Spec.Workflow.Parameters = &runtime.RawExtension{Raw: raw}
	definition, err := library.Workflow(workflowName)
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := render.Render(render.Input{Run: run, Workflow: definition, SecretStore: "local"})
	if err != nil {
		t.Fatal(err)
	}
	workflow, err := Decode(rendered.Workflow)
	if err != nil {
		t.Fatal(err)
	}
	return Plan(t.Context(), workflow, library, machine)
}

type object = map[string]any

var parameters = object{"repository": object{"url": "https://git.example.com/cart.git", "appPath": "/tmp/app"},
	"docker": object{"context": "/mnt/vol/source"}}

func TestPlan(t *testing.T) {
	m := machine(t)
	scratch := t.TempDir()
	m.Scratch, m.Volumes["buildkit"] = filepath.Join(scratch, "run"), filepath.Join(scratch, "state")
	m.Secrets["cart-1-build-secrets"] = Source{Dir: scratch}
	m.Mounts = map[string]string{"/etc/secrets/build-secrets": "/elsewhere"} // the container's own wins
	secret := filepath.Join(scratch, "client-secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Secrets["cart-1-oauth-client-secret"] = Source{Files: map[string]string{"client-secret": secret}}
	m.Secrets["cart-1-git-secret"] = Source{Dir: scratch}
	steps, err := planRun(t, edited(t, ""), m, parameters)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(m.Scratch); len(left) > 0 {
		t.Errorf("planning alone wrote %v", left)
	}
	run := func(path ...string) string { return filepath.Join(append([]string{m.Scratch}, path...)...) }
	volume := func(path ...string) string { return run(append([]string{"volumes"}, path...)...) }
	want := []map[string]string{
		{
			"GIT_REPO": "https://git.example.com/cart.git", "BRANCH": "main", "COMMIT": "",
			"GIT_SECRET_REQUIRED": "false", "GIT_SECRET_TIMEOUT": "180",
			"WORKSPACE": run("workspace"), "RESULTS_DIR": volume("checkout-source", "results"),
			"GIT_SECRET_DIR": scratch,
		},
		{
			"WORKSPACE": run("workspace"), "SOURCE_DIGEST": "sha256:5",
			"RESULTS_DIR":    volume("containerfile-build", "results"),
			"DOCKER_CONTEXT": "/mnt/vol/source", // in the repository, and not this machine's
			"BUILDKIT_ROOT":  filepath.Join(scratch, "state", "buildkit"), "HOME": volume("containerfile-build", "tmp"),
			"REGISTRY_PULL_SECRET": volume("containerfile-build", "registry-pull-secret", ".dockerconfigjson"),
			"BUILD_SECRETS_DIR":    scratch,
		},
		{
			"IMAGE_NAME": "acme_shop_cart", "IMAGE_TAG": "v1", "GIT_REVISION": "1a2b3c4d", "REGISTRY": "127.0.0.1:5000",
			"REVISION": "base64:e30=", "RUN_NAME": "cart-1", "NAMESPACE_NAME": "acme",
			"CA_BUNDLE": volume("publish-image", "ca-bundle", "ca.crt"), "WORKSPACE": run("workspace"),
		},
		{
			"WORKSPACE": run("workspace"), "SOURCE_DIGEST": "sha256:5",
			"IMAGE": "r/i:t", "RUN_NAME": "cart-1", "APP_PATH": "/tmp/app", "COMPONENT_NAME": "cart",
			"OUTPUT":                   volume("generate-workload-cr", "results", "workload-cr.yaml"),
			"OAUTH_CLIENT_SECRET_FILE": volume("generate-workload-cr", "oauth-client-secret", "client-secret"),
		},
	}
	done := pipeline.Outputs{
		"checkout-source": checkedOut, "containerfile-build": built, "publish-image": published,
	}
	for i, step := range steps {
		if step.Name != stepNames[i] {
			t.Errorf("step %d is %s", i, step.Name)
		}
		process, err := step.Process(done)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for name := range want[i] {
			got[name] = process.Env[name]
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", step.Name, diff)
		}
		if start := process.Env["RUN_START"]; step.Name == "publish-image" {
			if at, err := time.Parse(time.RFC3339, start); err != nil || time.Since(at).Abs() > time.Hour {
				t.Errorf("the run began at %q: %v", start, err)
			}
		}
		if process.Program != filepath.Join(m.Programs, stepNames[i]) || process.Deadline == 0 ||
			process.Results != process.Env["RESULTS_DIR"] {
			t.Errorf("%s: %+v", step.Name, process)
		}
		for _, output := range process.Outputs {
			if filepath.Dir(output.Path) != process.Results || output.Default == nil {
				t.Errorf("%s: output %+v", step.Name, output)
			}
		}
	}
	linked, err := os.Readlink(volume("generate-workload-cr", "oauth-client-secret", "client-secret"))
	if err != nil || linked != secret {
		t.Errorf("the client's secret is %q, %v", linked, err)
	}
}

// What steps before have handed over.
var (
	checkedOut = map[string]string{"git-revision": "1a2b3c4d", "source-digest": "sha256:5", "revision": "base64:e30="}
	built      = map[string]string{"image-digest": "sha256:1", "base-images": "[]"}
	published  = map[string]string{"image": "r/i:t", "signature-digest": "", "sbom-digests": "[]"}
)

// What would not run in a cluster, or not here as it does there, is refused before the first step.
func TestPlanRefuses(t *testing.T) {
	const plane, control = "workflow-plane/", "control-plane/dockerfile-builder.yaml"
	tests := []struct {
		name, file string
		replace    []string
		want       string
	}{
		{"an input that the variables do not know", plane + "publish-image.yaml",
			[]string{"- name: git-revision", "- name: git-version"}, "git-revision"},
		{"a variable of an input that is not there", plane + "publish-image.yaml",
			[]string{"'{{inputs.parameters.jobs}}'", "'{{inputs.parameters.workers}}'"}, "inputs.parameters.workers"},
		{"an output that the workflow asks for", plane + "checkout-source.yaml",
			[]string{"- name: git-revision", "- name: git-version"},
			"steps.checkout-source.outputs.parameters.git-revision"},
		{"a setting", plane + "publish-image.yaml",
			[]string{
				"- name: registry\n", "- name: host\n", "inputs.parameters.registry}}", "inputs.parameters.host}}",
			},
			"has no input parameter registry, which this machine sets"},
		{"a template", control, []string{"template: publish-image", "template: push-image"}, "push-image"},
		{"a script", plane + "publish-image.yaml",
			[]string{"      container:\n        image: ghcr.io/stepwright/publish-image\n",
				"      script:\n        source: echo\n        image: ghcr.io/stepwright/publish-image\n"},
			"script cannot be run here"},
		{"an init container", plane + "publish-image.yaml",
			[]string{
				"      container:\n", "      initContainers: [{name: a, image: b, command: [c]}]\n      container:\n",
			},
			"template publish-image: init container a: the step c is not in "},
		{"a patch of the container", plane + "publish-image.yaml",
			[]string{"          - name: wait\n", "          - name: main\n"},
			`template publish-image: podSpecPatch: the container "main" cannot be patched here`},
		{"a patch of the pod", plane + "publish-image.yaml",
			[]string{"        containers:\n          - name: wait\n",
				"        hostNetwork: true\n        containers:\n          - name: wait\n"},
			"template publish-image: podSpecPatch: hostNetwork cannot be run here"},
		{"retries", plane + "publish-image.yaml",
			[]string{"      container:\n", "      retryStrategy: {limit: 2}\n      container:\n"},
			"retryStrategy cannot be run here"},
		{"another program", plane + "publish-image.yaml", []string{"/usr/local/bin/publish-image", "/bin/sh"},
			"the step sh is not in "},
		{"a folder of the host", plane + "publish-image.yaml",
			[]string{"configMap:\n            name: stepwright-ca-bundle\n            optional: true",
				"hostPath:\n            path: /etc"},
			"volume ca-bundle: hostPath cannot be run here"},
		{"a projected Secret", plane + "publish-image.yaml",
			[]string{"configMap:\n            name: stepwright-ca-bundle\n            optional: true",
				"projected:\n            sources: [{secret: {name: other}}]"},
			"volume ca-bundle: projected: secret cannot be run here"},
		{"part of a volume", plane + "publish-image.yaml",
			[]string{"mountPath: /tmp\n", "mountPath: /tmp\n            subPath: ../x\n"},
			`volumeMount tmp: subPath "../x" cannot be run here`},
		{"part of a Secret", plane + "publish-image.yaml",
			[]string{"mountPath: /etc/secrets/registry-push-secret\n",
				"mountPath: /etc/secrets/registry-push-secret\n            subPath: x\n"},
			`volumeMount registry-push-secret: subPath "x" cannot be run here`},
		{"a Secret that nobody makes", plane + "publish-image.yaml",
			[]string{"'{{workflow.parameters.registry-push-secret}}'\n            optional: true",
				"other\n            optional: false"},
			`there is no Secret "other" here; there is cart-1-`},
		{"a variable from elsewhere", plane + "publish-image.yaml",
			[]string{"            value: '{{inputs.parameters.jobs}}'",
				"            valueFrom: {fieldRef: {fieldPath: metadata.name}}"},
			"variable JOBS: valueFrom cannot be run here"},
		{"parallel steps", control,
			[]string{"            - - name: publish-image", "              - name: publish-image"},
			"steps[1] has 2 steps, and parallel ones cannot be run here"},
		{"a condition", control,
			[]string{"            - - name: publish-image\n",
				"            - - name: publish-image\n                when: 'true'\n"},
			"step publish-image: when cannot be run here"},
		{"a loop", control,
			[]string{"            - - name: publish-image\n",
				"            - - name: publish-image\n                withItems: [1]\n"},
			"step publish-image: withItems cannot be run here"},
		{"an exit handler", control,
			[]string{
				"      entrypoint: build-workflow\n",
				"      entrypoint: build-workflow\n      onExit: build-workflow\n",
			},
			"the workflow: onExit cannot be run here"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := planRun(t, edited(t, test.file, test.replace...), machine(t), parameters); err == nil ||
				!strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want …%s…", err, test.want)
			}
		})
	}
}

// A token of a service account, which only a cluster gives, is not there.
func TestNoTokens(t *testing.T) {
	m := machine(t)
	m.Scratch, m.Volumes = t.TempDir(), nil
	steps, err := planRun(t, edited(t, "workflow-plane/publish-image.yaml",
		"configMap:\n            name: stepwright-ca-bundle\n            optional: true",
		"projected:\n            sources: [{serviceAccountToken: {audience: sigstore, path: oidc-token}}]",
		"mountPath: /etc/stepwright/ca\n", "mountPath: /var/run/sigstore/cosign\n",
	), m, parameters)
	if err != nil {
		t.Fatal(err)
	}
	process, err := steps[2].Process(pipeline.Outputs{"checkout-source": checkedOut, "containerfile-build": built})
	if err != nil {
		t.Fatal(err)
	}
	file := process.Env["SIGNING_IDENTITY_TOKEN_FILE"]
	if filepath.Base(file) != "oidc-token" || !strings.HasPrefix(file, m.Scratch) {
		t.Errorf("it looks for a token at %s", file)
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) > 0 {
		t.Errorf("there is %v, %v", left, err)
	}
}

func TestAddRefusesFieldsThatAreNot(t *testing.T) {
	err := new(Library).Add([]byte(
		"kind: ClusterWorkflowTemplate\nmetadata: {name: a}\nspec:\n  templates: [{name: x, contianer: {}}]\n",
	))
	if err == nil || !strings.Contains(err.Error(), "contianer") {
		t.Errorf("got %v", err)
	}
}

// What a developer writes is never expanded: it arrives as it is or, where Argo would find something, in base64.
func TestNothingOfADevelopersIsExpanded(t *testing.T) {
	attacks := []string{
		"{{inputs.parameters.oauth-client-id}}", "{{inputs.parameters.git-secret-timeout}}",
		"{{workflow.parameters.git-secret}}", "{{workflow.name}}", "{{=1+1}}",
		"{{=sprig.upper('x')}}", "{{steps.checkout-source.outputs.parameters.git-revision}}", "{{", "}}{{=1+1}}",
		"{{ =1+1 }}", "{{{{workflow.name}}}}",
		"$(GIT_REPO)", "$(HOME)", "pa$$word", "$$(date)",
	}
	m := machine(t)
	m.Scratch, m.Volumes, m.Secrets["cart-1-git-secret"] = t.TempDir(), nil, Source{}
	m.Secrets["cart-1-oauth-client-secret"] = Source{}
	for _, attack := range attacks {
		list := []object{{"name": attack, "value": attack}}
		steps, err := planRun(t, edited(t, ""), m, object{
			"repository": object{
				"url":      attack,
				"revision": object{"branch": attack, "commit": attack},
				"appPath":  attack,
			},
			"docker": object{"context": attack, "filePath": attack}, "buildEnv": list, "buildArgs": list,
		})
		if err != nil {
			t.Errorf("%s: %v", attack, err)
			continue
		}
		code := "base64:" + base64.StdEncoding.EncodeToString([]byte(attack))
		element := `[{"name":"` + code + `","value":"` + code + `"}]`
		fields := []map[string]string{
			{"GIT_REPO": code, "BRANCH": code, "COMMIT": code},
			{"DOCKER_CONTEXT": code, "DOCKERFILE_PATH": code, "BUILD_ENV": element, "BUILD_ARGS": element},
			{},
			{"APP_PATH": code},
		}
		for i, step := range steps {
			process, err := step.Process(pipeline.Outputs{
				"checkout-source":     checkedOut,
				"containerfile-build": built,
				"publish-image":       published,
			})
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range fields[i] {
				if got := process.Env[name]; got != want {
					t.Errorf("%s: %s arrives as %s, want %s", attack, name, got, want)
				}
			}
		}
	}
}

// The same attack on a ClusterWorkflow that takes texts as they are: it is Argo that expands here.
func TestANaiveWorkflowIsExpanded(t *testing.T) {
	m := machine(t)
	m.Scratch, m.Volumes, m.Secrets["cart-1-git-secret"] = t.TempDir(), nil, Source{}
	naive := edited(t, "control-plane/dockerfile-builder.yaml",
		"          - name: branch\n",
		"          - name: branch\n            value: ${parameters.repository.revision.branch}\n"+
			"          - name: unused\n")
	for attack, want := range map[string]string{
		"{{=1+1}}":                                 "2",
		"{{workflow.parameters.git-secret}}":       "cart-1-git-secret",
		"{{inputs.parameters.git-secret-timeout}}": "180",
	} {
		steps, err := planRun(t, naive, m, object{
			"repository": object{"url": "https://git.example.com/cart.git", "revision": object{"branch": attack}},
		})
		if err != nil {
			t.Fatal(err)
		}
		process, err := steps[0].Process(nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := process.Env["BRANCH"]; got != want {
			t.Errorf("%s arrives as %q, want %q", attack, got, want)
		}
	}
}
