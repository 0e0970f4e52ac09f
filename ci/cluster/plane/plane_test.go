package plane

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/programs"
)

// Every configuration of the node's is what its reader can parse, with nothing left to fill in.
func TestConfigure(t *testing.T) {
	state := node.State{Dir: t.TempDir()}
	p := New(&node.Supervisor{State: state}, programs.Set{Containerd: "/programs/containerd", Runc: "/programs/runc"})
	if err := p.configure(); err != nil {
		t.Fatal(err)
	}
	read := func(path string) []byte {
		t.Helper()
		content, err := os.ReadFile(state.Path(path))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	var containerd struct {
		Version int
		Plugins map[string]map[string]any
	}
	if err := toml.Unmarshal(read("containerd.toml"), &containerd); err != nil {
		t.Fatal(err)
	}
	if cni, _ := containerd.Plugins["io.containerd.cri.v1.runtime"]["cni"].(map[string]any); containerd.Version != 3 ||
		cni["conf_dir"] != state.Path("cni") {
		t.Errorf("%+v", containerd)
	}
	var hosts map[string]map[string]any
	if err := toml.Unmarshal(read("registries/_default/hosts.toml"), &hosts); err != nil ||
		hosts["host"]["http://"+node.Registry] == nil {
		t.Error(hosts, err)
	}
	var network struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal(read("cni/10-bridge.conflist"), &network); err != nil || len(network.Plugins) != 2 {
		t.Error(network, err)
	}
	for _, file := range []string{"kubelet.yaml", "kube-proxy.yaml"} {
		var configuration map[string]any
		if err := utilyaml.UnmarshalStrict(read(file), &configuration); err != nil || configuration["kind"] == nil {
			t.Error(file, err)
		}
	}
}

// Every manifest renders to objects.
func TestManifests(t *testing.T) {
	for name, data := range map[string]any{
		"coredns.yaml": map[string]string{
			"Domain":  node.Domain,
			"Address": node.Address,
			"DNS":     node.DNS,
			"Image":   "i",
		},
		"storage.yaml":     map[string]string{"Provisioner": "p"},
		"secretstore.yaml": map[string]string{"Namespace": "n", "Store": "s", "Server": "https://u"},
		"authz.yaml":       nil,
	} {
		manifest, err := render(name, data)
		if err != nil {
			t.Fatal(err)
		}
		decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(string(manifest)), 4096)
		objects := 0
		for ; ; objects++ {
			var object struct {
				APIVersion, Kind string
				Metadata         struct{ Name string }
			}
			err := decoder.Decode(&object)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || object.APIVersion == "" || object.Kind == "" || object.Metadata.Name == "" {
				t.Errorf("%s: %+v %v", name, object, err)
			}
		}
		if objects == 0 {
			t.Errorf("%s has no objects", name)
		}
	}
	if corefile, _ := render("coredns.yaml", map[string]string{
		"Domain":  "d",
		"Address": "1.2.3.4",
		"DNS":     "d",
		"Image":   "i",
	}); !strings.Contains(string(corefile), `answer "{{ .Name }} 60 IN A 1.2.3.4"`) {
		t.Errorf("%s", corefile)
	}
	if _, err := render("storage.yaml", map[string]string{}); err == nil {
		t.Error("what is missing was left out")
	}
}

func TestCredentials(t *testing.T) {
	state := node.State{Dir: t.TempDir()}
	p := New(&node.Supervisor{State: state}, programs.Set{})
	if err := p.credentials(); err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"admin", "kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"} {
		if _, err := Connect(filepath.Join(state.Dir, "kubeconfig", who)); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
}

func TestRulesOf(t *testing.T) {
	chart := `
metadata:
  name: {{ include "name" . }}
rules:
# a remark
- apiGroups: ["openchoreo.dev"]
  resources: ["components"]
  {{- if .Values.write }}
  verbs: ["get"]
  {{- end }}
{{- if .Values.more }}
- apiGroups: ["*"]
{{- end }}
`
	rules, err := rulesOf([]byte(chart))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := json.Marshal(rules); string(got) != `[{"apiGroups":["openchoreo.dev"],"resources":["components"],`+
		`"verbs":["get"]}]` {
		t.Errorf("%s", got)
	}
	if _, err := rulesOf([]byte("metadata: {}\n")); err == nil {
		t.Error("no error")
	}
}

func TestAtAddress(t *testing.T) {
	webhook := `
kind: ValidatingWebhookConfiguration
webhooks:
- name: a
  clientConfig: {service: {name: webhook-service, namespace: system, path: /validate}}
`
	got, err := atAddress([]byte(webhook), "https://127.0.0.1:9443", []byte("PEM"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"kind":"ValidatingWebhookConfiguration","webhooks":[{"clientConfig":{"caBundle":"UEVN",` +
		`"url":"https://127.0.0.1:9443/validate"},"name":"a"}]}`
	if string(got) != want {
		t.Errorf("%s", got)
	}
	if _, err := atAddress([]byte(strings.Replace(webhook, "service:", "url:", 1)), "", nil); err == nil {
		t.Error("no error")
	}
}
