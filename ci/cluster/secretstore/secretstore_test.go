package secretstore

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var store = map[string]*corev1.Secret{
	"registry": {Data: map[string][]byte{"value": []byte(`{"auths":{}}`)}},
	"git":      {Data: map[string][]byte{"username": []byte("ci"), "password": []byte("p\"&<")}},
	"late": {ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{Delay: "15s"}},
		Data: map[string][]byte{"value": []byte("v")}},
}

func lookup(name string) (*corev1.Secret, error) {
	if secret := store[name]; secret != nil {
		return secret, nil
	}
	return nil, fmt.Errorf("the store has no secret %q", name)
}

const head = `
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: run-1, namespace: workflows-default, uid: "1", creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  secretStoreRef: {kind: ClusterSecretStore, name: default}
`

func TestSecret(t *testing.T) {
	created := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		spec  string
		age   time.Duration
		kind  corev1.SecretType
		data  map[string]string
		fault string
	}{
		"values as they are": {
			spec: `
  data:
    - {secretKey: password, remoteRef: {key: git, property: password}}`,
			kind: "Opaque", data: map[string]string{"password": "p\"&<"},
		},
		"a template": {
			spec: `
  target:
    template:
      type: kubernetes.io/dockerconfigjson
      data: {.dockerconfigjson: '{{ .registrysecret | toString }}'}
  data: [{secretKey: registrysecret, remoteRef: {key: registry, property: value}}]`,
			kind: "kubernetes.io/dockerconfigjson", data: map[string]string{".dockerconfigjson": `{"auths":{}}`},
		},
		"a template with a type alone": {
			spec: `
  target: {template: {type: kubernetes.io/basic-auth}}
  data:
    - {secretKey: username, remoteRef: {key: git, property: username}}
    - {secretKey: password, remoteRef: {key: git, property: password}}`,
			kind: "kubernetes.io/basic-auth", data: map[string]string{"username": "ci", "password": "p\"&<"},
		},
		"a template that is merged": {
			spec: `
  target: {template: {mergePolicy: Merge, data: {url: 'https://{{ .username }}@git'}}}
  data: [{secretKey: username, remoteRef: {key: git, property: username}}]`,
			kind: "Opaque", data: map[string]string{"username": "ci", "url": "https://ci@git"},
		},
		"a template that adds to a secret of a type": {
			spec: `
  target: {template: {type: kubernetes.io/basic-auth, mergePolicy: Merge, data: {git-hosts: 'git.example.com:8443'}}}
  data:
    - {secretKey: username, remoteRef: {key: git, property: username}}
    - {secretKey: password, remoteRef: {key: git, property: password}}`,
			kind: "kubernetes.io/basic-auth",
			data: map[string]string{"username": "ci", "password": "p\"&<", "git-hosts": "git.example.com:8443"},
		},
		"a template that adds nothing": {
			spec: `
  target: {template: {type: kubernetes.io/basic-auth, mergePolicy: Merge}}
  data: [{secretKey: username, remoteRef: {key: git, property: username}}]`,
			kind: "kubernetes.io/basic-auth", data: map[string]string{"username": "ci"},
		},
		"a whole secret": {
			spec: `
  data: [{secretKey: all, remoteRef: {key: registry}}]`,
			kind: "Opaque", data: map[string]string{"all": `{"value":"{\"auths\":{}}"}`},
		},
		"no such key": {
			spec: `
  data: [{secretKey: a, remoteRef: {key: nothing, property: value}}]`,
			fault: `the store has no secret "nothing"`,
		},
		"no such property": {
			spec: `
  data: [{secretKey: a, remoteRef: {key: git, property: token}}]`,
			fault: "property token does not exist in key git; there is [password username]",
		},
		"a value that the template lacks": {
			spec: `
  target: {template: {data: {a: '{{ .b }}'}}}
  data: [{secretKey: a, remoteRef: {key: git, property: username}}]`,
			fault: "could not execute the template of a",
		},
		"late, and it is early": {
			spec: `
  data: [{secretKey: a, remoteRef: {key: late, property: value}}]`,
			age:   14 * time.Second,
			fault: "the store gives the value in 1s",
		},
		"late, and it is time": {
			spec: `
  data: [{secretKey: a, remoteRef: {key: late, property: value}}]`,
			age:  15 * time.Second,
			kind: "Opaque", data: map[string]string{"a": "v"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var es ExternalSecret
			if err := yaml.UnmarshalStrict([]byte(head+test.spec), &es); err != nil {
				t.Fatal(err)
			}
			secret, err := Secret(&es, created.Add(test.age), lookup)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Fatalf("got %v, want %q", err, test.fault)
				}
				if _, later := errors.AsType[*NotYetError](err); later != strings.HasPrefix(name, "late") {
					t.Errorf("%T", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data := map[string]string{}
			for key, value := range secret.Data {
				data[key] = string(value)
			}
			if fmt.Sprint(data) != fmt.Sprint(test.data) || secret.Type != test.kind {
				t.Errorf("got %s %q, want %s %q", secret.Type, data, test.kind, test.data)
			}
			if secret.Name != "run-1" || secret.Namespace != "workflows-default" {
				t.Errorf("it is %s/%s", secret.Namespace, secret.Name)
			}
			if len(secret.OwnerReferences) != 1 || secret.OwnerReferences[0].Kind != "ExternalSecret" ||
				secret.OwnerReferences[0].UID != "1" {
				t.Errorf("its owners are %v", secret.OwnerReferences)
			}
		})
	}
}

func TestOtherStores(t *testing.T) {
	var es ExternalSecret
	if err := yaml.Unmarshal([]byte(strings.Replace(head, "name: default}", "name: vault}", 1)), &es); err != nil {
		t.Fatal(err)
	}
	if _, err := Secret(&es, time.Now(), lookup); err == nil ||
		!strings.Contains(err.Error(), `could not get ClusterSecretStore "vault"`) {
		t.Error(err)
	}
}

// What our ClusterWorkflow asks for is what this package can do.
func TestOurTemplates(t *testing.T) {
	source, err := os.ReadFile("../../../templates/control-plane/dockerfile-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var workflow struct {
		Spec struct {
			Resources []struct{ Template map[string]any }
		}
	}
	if err := yaml.Unmarshal(source, &workflow); err != nil {
		t.Fatal(err)
	}
	if len(workflow.Spec.Resources) == 0 {
		t.Fatal("it has no resources")
	}
	for _, resource := range workflow.Spec.Resources {
		spec := resource.Template["spec"].(map[string]any)
		if _, list := spec["data"].([]any); !list {
			spec["data"] = []any{} // an expression
		}
		if made, ok := spec["target"].(map[string]any)["template"].(map[string]any); ok {
			if _, text := made["data"].(string); text { // an expression
				made["data"] = map[string]any{"git-hosts": "git.example.com"}
			}
		}
		delete(spec, "refreshInterval") // which nobody here reads
		text, err := yaml.Marshal(resource.Template)
		if err != nil {
			t.Fatal(err)
		}
		var es ExternalSecret
		if err := yaml.UnmarshalStrict(text, &es); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
		es.Spec.SecretStoreRef.Name = Store // an expression
		_, err = Secret(&es, time.Now(), func(string) (*corev1.Secret, error) {
			return &corev1.Secret{Data: map[string][]byte{"value": []byte("{}")}}, nil
		})
		if err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}
