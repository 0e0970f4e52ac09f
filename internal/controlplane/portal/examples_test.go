package portal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v5"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

const examples = "../../../examples/backstage"

var kubectlFlag = flag.String(
	"kubectl", "",
	"kubectl, with KUBECONFIG, of a cluster to run the scripts against; empty: a file, read and patched by the "+
		"libraries of kubectl",
)

func TestMain(m *testing.M) {
	if path := os.Getenv("TEST_IS_KUBECTL"); path != "" {
		if err := kubectl(path, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	os.Exit(m.Run())
}

// kubectl gets and patches the one object in a file.
func kubectl(path string, args []string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	value := func(flag string) string {
		i := slices.Index(args, flag)
		if i < 0 || i+1 == len(args) {
			return ""
		}
		return args[i+1]
	}
	if value("--namespace") != "openchoreo-control-plane" || args[2] != "backstage-secrets" {
		return fmt.Errorf("not found: %q", args)
	}
	switch args[0] {
	case "get":
		var object any
		if err := json.Unmarshal(raw, &object); err != nil {
			return err
		}
		path := jsonpath.New("out").AllowMissingKeys(true)
		if err := path.Parse(strings.TrimPrefix(value("--output"), "jsonpath=")); err != nil {
			return err
		}
		return path.Execute(os.Stdout, object)
	case "patch":
		text, err := os.ReadFile(value("--patch-file"))
		if err != nil {
			return err
		}
		if value("--type") == "merge" {
			raw, err = jsonpatch.MergePatch(raw, text)
		} else {
			var patch jsonpatch.Patch
			if patch, err = jsonpatch.DecodePatch(text); err == nil {
				raw, err = patch.Apply(raw)
			}
		}
		if err != nil {
			return err
		}
		return os.WriteFile(path, raw, 0o600)
	}
	return fmt.Errorf("no %s here", args[0])
}

// run runs a script, each command traced, with kubectl on PATH, and returns what it wrote.
func run(t *testing.T, object, script, stdin string, args ...string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	test, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if *kubectlFlag != "" {
		test = *kubectlFlag
	}
	if err := os.Symlink(test, filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-x", filepath.Join(examples, script)}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	if *kubectlFlag == "" {
		cmd.Env = append(cmd.Env, "TEST_IS_KUBECTL="+object)
	}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// keys returns the keys of the ExternalSecret in a file, in their order.
func keys(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		Spec struct {
			Data []struct {
				SecretKey string
				RemoteRef struct{ Key, Property string }
			}
		}
	}
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range object.Spec.Data {
		if d.RemoteRef.Key != "backstage-"+d.SecretKey || d.RemoteRef.Property != "value" {
			t.Errorf("%+v", d)
		}
		found = append(found, d.SecretKey)
	}
	return found
}

func TestAddKeys(t *testing.T) {
	t.Parallel()
	all := []string{"backend-secret", "jenkins-api-key", "github-actions-token", "github-oauth-client-secret"}
	entry := func(key string) string {
		return `{"secretKey":"` + key + `","remoteRef":{"key":"backstage-` + key + `","property":"value"}}`
	}
	for name, tc := range map[string]struct {
		data string
		args []string
		want []string
	}{
		"none of them": {data: `,"data":[` + entry("backend-secret") + `]`, want: all},
		"one of them": {
			data: `,"data":[` + entry("backend-secret") + `,` + entry("jenkins-api-key") + `]`,
			want: all,
		},
		"no data at all": {want: all[1:]},
		"an empty list":  {data: `,"data":[]`, want: all[1:]},
		"only what is wanted": {
			data: `,"data":[` + entry("backend-secret") + `]`,
			args: []string{"github-actions-token"},
			want: []string{"backend-secret", "github-actions-token"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "object.json")
			if err := os.WriteFile(path, []byte(`{"metadata":{"resourceVersion":"7"},"spec":{"refreshInterval":"1h"`+
				tc.data+`}}`), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if out, err := run(t, path, "add-keys.sh", "", tc.args...); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				if got := keys(t, path); !slices.Equal(got, tc.want) {
					t.Errorf("keys %q, want %q", got, tc.want)
				}
			}
		})
	}
	if out, err := run(t, "/nonexistent", "add-keys.sh", "", `x"}}`); err == nil ||
		!strings.Contains(out, "is not the name of a key") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestSetKey(t *testing.T) {
	t.Parallel()
	const canary = `canary-"$(id)'ä+/&`
	path := filepath.Join(t.TempDir(), "object.json")
	if err := os.WriteFile(path, []byte(`{"data":{"backend-secret":"a2VlcA=="}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		out, err := run(t, path, "set-key.sh", canary+"\n", "jenkins-api-key")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, secret := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary))} {
			if strings.Contains(out, secret) {
				t.Errorf("the secret is in the trace: %s", out)
			}
		}
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var object struct{ Data map[string][]byte }
	if err := json.Unmarshal(raw, &object); err != nil {
		t.Fatal(err)
	}
	if string(object.Data["jenkins-api-key"]) != canary || string(object.Data["backend-secret"]) != "keep" ||
		len(object.Data) != 2 {
		t.Errorf("data %q", object.Data)
	}
}

// TestExamples checks the values by the schema of OpenChoreo's chart, the objects against each other, and all
// against this package.
func TestExamples(t *testing.T) {
	t.Parallel()
	set, err := objects.Load(examples)
	if err != nil {
		t.Fatal(err)
	}
	const callback = "https://portal.example.com" + callbackPath
	if faults := append(set.Faults, Check(set, callback)...); len(faults) > 0 {
		t.Errorf("faults: %v", faults)
	}
	if len(set.Values) != 3 || len(set.OfKind("Component")) != 1 {
		t.Errorf("%d values, %d Components", len(set.Values), len(set.OfKind("Component")))
	}

	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	schema, err := os.ReadFile(
		filepath.Join(strings.TrimSpace(string(dir)), "install/helm/openchoreo-control-plane/values.schema.json"),
	)
	if err != nil {
		t.Fatal(err)
	}
	// Values are merged with the chart's own before its schema checks them, so a field that is required of the whole
	// is not of a part.
	var tree any
	if err := json.Unmarshal(schema, &tree); err != nil {
		t.Fatal(err)
	}
	withoutRequired(tree)
	if schema, err = json.Marshal(tree); err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("values.json", bytes.NewReader(schema)); err != nil {
		t.Fatal(err)
	}
	compiled, err := compiler.Compile("values.json")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	files, err := filepath.Glob(filepath.Join(examples, "values-*.yaml"))
	if err != nil || len(files) != 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := yaml.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		if err := compiled.Validate(any(v)); err != nil {
			t.Errorf("%s: %#v", file, err)
		}
		named[v["backstage"].(map[string]any)["secretName"].(string)] = true
		v["backstage"].(map[string]any)["externalCI"].(map[string]any)["jenkns"] = true
		if compiled.Validate(any(v)) == nil {
			t.Errorf("%s: the schema takes anything", file)
		}
	}
	if len(named) != 1 || !named["backstage-secrets"] {
		t.Errorf("Secrets %v", named)
	}

	// Both ways to the Secret have the keys that the chart's templates ask for.
	var external struct {
		Spec struct{ Data []struct{ SecretKey string } }
	}
	var direct struct{ StringData map[string]string }
	for name, into := range map[string]any{"externalsecret.yaml": &external, "secret.yaml": &direct} {
		raw, err := os.ReadFile(filepath.Join(examples, name))
		if err == nil {
			err = yaml.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	deployment, err := os.ReadFile(
		filepath.Join(
			strings.TrimSpace(string(dir)),
			"install/helm/openchoreo-control-plane/templates/backstage/deployment.yaml",
		),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"jenkins-api-key", "github-actions-token", "github-oauth-client-secret"} {
		if !bytes.Contains(deployment, []byte("key: "+key+"\n")) {
			t.Errorf("the chart does not know the key %s", key)
		}
		if _, ok := direct.StringData[key]; !ok {
			t.Errorf("secret.yaml lacks %s", key)
		}
		if !slices.ContainsFunc(external.Spec.Data, func(d struct{ SecretKey string }) bool {
			return d.SecretKey == key
		}) {
			t.Errorf("externalsecret.yaml lacks %s", key)
		}
	}
}

func withoutRequired(node any) {
	switch v := node.(type) {
	case map[string]any:
		if _, isList := v["required"].([]any); isList {
			delete(v, "required")
		}
		for _, inner := range v {
			withoutRequired(inner)
		}
	case []any:
		for _, inner := range v {
			withoutRequired(inner)
		}
	}
}
