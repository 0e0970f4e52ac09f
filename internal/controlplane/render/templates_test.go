package render

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"sigs.k8s.io/yaml"
)

// OpenChoreo's own code renders our ClusterWorkflows as ours does, with all that developers and platforms set.
func TestOurClusterWorkflows(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../templates/control-plane/*-builder.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v %v", files, err)
	}
	builds := func(annotations map[string]string, keys ...string) *v1alpha1.SecretReference {
		found := &v1alpha1.SecretReference{Spec: v1alpha1.SecretReferenceSpec{Template: v1alpha1.SecretTemplate{
			Metadata: &v1alpha1.SecretMetadata{Annotations: annotations},
		}}}
		for _, key := range keys {
			found.Spec.Data = append(found.Spec.Data, v1alpha1.SecretDataSource{
				SecretKey: key, RemoteRef: v1alpha1.RemoteReference{Key: "store/" + key, Version: "2"},
			})
		}
		return found
	}
	secrets := map[string]*v1alpha1.SecretReference{
		"git-credentials": reference,
		"npm":             builds(map[string]string{"stepwright.dev/build-secrets": "shop/till, shop/cart"}, "npmrc"),
		"several":         builds(map[string]string{"stepwright.dev/build-secrets": "true"}, "a", "b"),
		"till":            builds(map[string]string{"stepwright.dev/build-secrets": "shop/till"}, "a"),
		"bindings":        builds(map[string]string{"stepwright.dev/bindings": "shop/*"}, "npm.type", "npm..npmrc"),
	}
	inputs := map[string]Input{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for placement, text := range map[string]string{
			"": string(raw),
			" placed": strings.NewReplacer("\n        {}\n", "\n        "+`{"pool": "builds"}`+"\n",
				"\n        []\n", "\n        "+`[{"key": "a", "operator": "Exists", "tolerationSeconds": 60}]`+"\n",
				"\n        0\n", "\n        14400\n", `[""].map(class`, `["builds"].map(class`).Replace(string(raw)),
		} {
			var workflow struct{ Spec v1alpha1.WorkflowSpec }
			if err := yaml.Unmarshal([]byte(text), &workflow); err != nil {
				t.Fatal(err)
			}
			if (text == string(raw)) != (placement == "") {
				t.Fatalf("%s: nothing says where pods run", file)
			}
			for name, parameters := range map[string]string{
				"nothing but a URL": `{"repository": {"url": "https://h/r"}}`,
				"everything": `{"repository": {"url": "https://h/r", "secretRef": "git-credentials", "lfs": "false",
					"submodules": false}, "docker": {"target": "{{x}}"}, "labels": [{"name": "a", "value": 1}],
					"noCache": true, "bindings": {"secretRef": "bindings"}, "buildSecrets": [
					{"name": "npmrc", "secretRef": "npm"}, null, {"name": "b", "secretRef": "several", "key": "b"}]}`,
				"what a build may not read": `{"repository": {"url": "https://h/r"}, "bindings": {"secretRef": "npm"},
					"buildSecrets": [{"name": "a", "secretRef": "till"}, {"name": "b", "secretRef": "several"},
					{"name": "{{c}}", "secretRef": "npm"}, {"name": "d", "secretRef": "git-credentials"}]}`,
				"odd": `{"repository": {"url": "https://h/r", "lfs": []}, "labels": "a", "noCache": {},
					"buildSecrets": [[], "a", {"name": 1, "secretRef": "npm", "key": 2}, {"secretRef": 3}]}`,
			} {
				inputs[filepath.Base(file)+placement+": "+name] = Input{
					Run: newRun(parameters), Workflow: workflow.Spec, SecretStore: "openbao",
					SecretReference: func(name string) *v1alpha1.SecretReference { return secrets[name] },
				}
			}
		}
	}
	compare(t, inputs)
	for name, in := range inputs {
		if _, err := Render(in); err != nil {
			t.Errorf("%s stays pending for ever: %v", name, err)
		}
	}
}

// No run of our ClusterWorkflows comes near the cost that OpenChoreo refuses, however much a developer sets: 250 build
// arguments, variables and labels of a hundred characters, and 60 secrets of 50 keys.
func TestCostOfOurClusterWorkflows(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../templates/control-plane/*-builder.yaml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%v %v", files, err)
	}
	secret := &v1alpha1.SecretReference{Spec: v1alpha1.SecretReferenceSpec{Template: v1alpha1.SecretTemplate{
		Metadata: &v1alpha1.SecretMetadata{Annotations: map[string]string{"stepwright.dev/build-secrets": "true"}},
	}}}
	for i := range 50 {
		secret.Spec.Data = append(secret.Spec.Data, v1alpha1.SecretDataSource{
			SecretKey: fmt.Sprintf("key-%d", i), RemoteRef: v1alpha1.RemoteReference{Key: "store/key"},
		})
	}
	var pairs, secrets []map[string]string
	for i := range 250 {
		pairs = append(pairs, map[string]string{"name": fmt.Sprintf("NAME_%d", i), "value": strings.Repeat("x", 100)})
	}
	for i := range 60 {
		secrets = append(secrets, map[string]string{
			"name": fmt.Sprintf("secret-%d", i), "secretRef": "git-credentials",
		})
	}
	most, err := json.Marshal(map[string]any{
		"repository": map[string]any{"url": "https://h/r", "secretRef": "git-credentials"},
		"buildArgs":  pairs, "buildEnv": pairs, "labels": pairs, "buildSecrets": secrets,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var workflow struct{ Spec v1alpha1.WorkflowSpec }
		if err := yaml.Unmarshal(raw, &workflow); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name, parameters string
			most             uint64
		}{
			{"nothing but a URL", `{"repository": {"url": "https://h/r"}}`, costLimit / 500},
			{"very much", string(most), costLimit / 4},
		} {
			out, err := Render(Input{
				Run: newRun(test.parameters), Workflow: workflow.Spec, SecretStore: "openbao",
				SecretReference: func(string) *v1alpha1.SecretReference { return secret },
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s, %s: %d", filepath.Base(file), test.name, out.cost)
			if out.cost < 100 || out.cost > test.most {
				t.Errorf("%s, %s: it costs %d, want %d at most", filepath.Base(file), test.name, out.cost, test.most)
			}
		}
	}
}

// What OpenChoreo would refuse is refused here: by one expression that costs too much, and by many that do together.
func TestCostThatOpenChoreoRefuses(t *testing.T) {
	t.Parallel()
	items := "[" + strings.TrimSuffix(strings.Repeat("1,", 100), ",") + "]"
	costly := "${" + items + ".map(a, " + items + ".map(b, a + b).size()).size()}"
	huge := "${" + items + ".map(a, " + items + ".map(b, " + items + ".map(c, a + b + c).size()).size()).size()}"
	for name, test := range map[string]struct{ text, fault string }{
		"one":      {huge, "cost limit exceeded"},
		"together": {strings.Repeat(costly, 50), "celCostLimit"},
		"enough":   {costly, ""},
	} {
		_, err := Render(Input{Run: newRun("{}"), Workflow: oneParameter(t, test.text)})
		if test.fault == "" && err != nil || test.fault != "" && (err == nil ||
			!strings.Contains(err.Error(), test.fault)) {
			t.Errorf("%s: %.200v, want %q", name, err, test.fault)
		}
	}
}
