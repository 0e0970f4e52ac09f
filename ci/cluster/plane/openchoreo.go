package plane

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/pki"
)

// Where OpenChoreo's parts listen. Those of the manager's webhooks (9443) and of the gateway's health (8080) are fixed
// in the programs.
const (
	APIURL      = "http://api." + node.Domain + ":8090"
	IssuerURL   = "http://idp." + node.Domain + ":8091"
	apiPort     = "8090"
	agentsPort  = "8443"
	gatewayPort = "8444"
	webhookURL  = "https://127.0.0.1:9443"
)

// Clients are those that the identity provider knows. The first is the CI's own, with the rights that OpenChoreo's
// chart gives it; admin may do all, nobody nothing.
var Clients = map[string]string{
	"openchoreo-workload-publisher-client": "openchoreo-workload-publisher-secret",
	"admin":                                "admin-secret",
	"nobody":                               "nobody-secret",
}

// Subjects are the service accounts whose tokens prove that they are a client: that of the runs of ci/e2e.
var Subjects = map[string]string{
	"system:serviceaccount:workflows-acme:workflow-sa": "openchoreo-workload-publisher-client",
}

// A part is a process of the node with the service account and the rights that its chart gives it. The role is a file
// of the chart.
type part struct{ name, namespace, role string }

var parts = []part{
	{"cluster-gateway", "openchoreo-control-plane",
		"openchoreo-control-plane/templates/cluster-gateway/clusterrole.yaml"},
	{"manager", "openchoreo-control-plane",
		"openchoreo-control-plane/templates/controller-manager/controller-manager-role.yaml"},
	{"openchoreo-api", "openchoreo-control-plane",
		"openchoreo-control-plane/templates/openchoreo-api/clusterrole.yaml"},
	{"cluster-agent", "openchoreo-workflow-plane",
		"openchoreo-workflow-plane/templates/cluster-agent/clusterrole.yaml"},
}

// startOpenChoreo starts OpenChoreo's control plane as processes of the node, with this cluster as its one workflow
// plane.
func (p *Plane) startOpenChoreo(ctx context.Context) error {
	agents, err := p.openChoreoKeys()
	if err != nil {
		return fmt.Errorf("make OpenChoreo's keys: %w", err)
	}
	for _, part := range parts {
		part.role = filepath.Join(p.programs.OpenChoreo, "install", "helm", part.role)
		if err := p.identity(ctx, part); err != nil {
			return err
		}
	}
	if err := p.run(ctx, p.own("idp", answers(IssuerURL+"/healthz"))); err != nil {
		return err
	}

	keys := func(name string) string { return p.state.Path("pki", "openchoreo", name) }
	if err := p.run(ctx, node.Process{
		Name: "cluster-gateway",
		Args: []string{"cluster-gateway", "--port=" + agentsPort, "--internal-port=" + gatewayPort,
			"--server-cert=" + keys("gateway.crt"), "--server-key=" + keys("gateway.key"),
			"--internal-mtls=true", "--internal-client-ca-cert=" + keys("internal-ca.crt")},
		Env:   []string{"KUBECONFIG=" + p.state.Kubeconfig("cluster-gateway")},
		Ready: answers("http://127.0.0.1:8080/health"),
	}); err != nil {
		return err
	}
	listening := answers("http://127.0.0.1:8081/readyz")
	if err := p.run(ctx, node.Process{
		Name: "manager",
		Args: []string{"manager", "--health-probe-bind-address=:8081",
			"--metrics-bind-address=127.0.0.1:8082", "--metrics-secure=false", // for ci/load
			"--cluster-gateway-url=https://127.0.0.1:" + gatewayPort,
			"--cluster-gateway-ca-cert=" + keys("gateway-ca.crt"),
			"--cluster-gateway-client-cert=" + keys("manager.crt"),
			"--cluster-gateway-client-key=" + keys("manager.key")},
		// It looks for its webhooks' certificate in a folder of TMPDIR.
		Env: []string{"ENABLE_WEBHOOKS=true", "TMPDIR=" + keys("tmp"), "KUBECONFIG=" + p.state.Kubeconfig("manager")},
		Ready: func(ctx context.Context) error {
			if err := listening(ctx); err != nil {
				return err
			}
			return dial("tcp", strings.TrimPrefix(webhookURL, "https://"))(ctx)
		},
	}); err != nil {
		return err
	}
	if err := p.webhooks(ctx); err != nil {
		return err
	}
	p.say("OpenChoreo's manager and gateway are ready")

	// The gateway asks the object for the agent's certificate authority.
	plane, err := json.Marshal(map[string]any{
		"apiVersion": "openchoreo.dev/v1alpha1", "kind": "ClusterWorkflowPlane",
		"metadata": map[string]any{"name": "default"},
		"spec": map[string]any{
			"planeID":        "default",
			"clusterAgent":   map[string]any{"clientCA": map[string]any{"value": string(agents)}},
			"secretStoreRef": map[string]any{"name": SecretStore},
		},
	})
	if err != nil {
		return err
	}
	rights, err := render("authz.yaml", nil)
	if err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, plane, rights); err != nil {
		return err
	}
	if err := p.run(ctx, node.Process{
		Name: "cluster-agent",
		Args: []string{
			"cluster-agent", "--server-url=wss://127.0.0.1:" + agentsPort + "/ws", "--plane-type=workflowplane",
			"--plane-id=default",
			"--client-cert=" + keys("agent.crt"),
			"--client-key=" + keys("agent.key"), "--server-ca=" + keys("gateway-ca.crt"),
			"--kubeconfig=" + p.state.Kubeconfig("cluster-agent"),
		},
		Ready: p.agentConnected(),
	}); err != nil {
		return err
	}
	config, err := render("openchoreo-api.yaml", map[string]string{
		"Port": apiPort, "Issuer": IssuerURL, "Gateway": "https://127.0.0.1:" + gatewayPort, "PKI": keys(""),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.state.Path("openchoreo-api.yaml"), config, 0o644); err != nil {
		return err
	}
	if err := p.run(ctx, node.Process{
		Name:  "openchoreo-api",
		Args:  []string{"openchoreo-api", "--config=" + p.state.Path("openchoreo-api.yaml")},
		Env:   []string{"KUBECONFIG=" + p.state.Kubeconfig("openchoreo-api")},
		Ready: answers(APIURL + "/ready"),
	}); err != nil {
		return err
	}
	p.say("OpenChoreo is ready")
	return nil
}

// openChoreoKeys makes four authorities, each trusted for one thing, and returns that of the agents.
func (p *Plane) openChoreoKeys() (agents []byte, err error) {
	dir := p.state.Path("pki", "openchoreo")
	serving := filepath.Join(dir, "tmp", "k8s-webhook-server", "serving-certs")
	if err := os.MkdirAll(serving, 0o700); err != nil {
		return nil, err
	}
	authorities := map[string]*pki.Authority{}
	for _, name := range []string{"gateway-ca", "internal-ca", "agent-ca", "webhook-ca"} {
		if authorities[name], err = pki.NewAuthority(name); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name+".crt"), authorities[name].PEM(), 0o644); err != nil {
			return nil, err
		}
	}
	server := func(name string) (pki.Pair, error) {
		return authorities[name].Server("openchoreo", "127.0.0.1", node.Address, "localhost")
	}
	for path, sign := range map[string]func() (pki.Pair, error){
		filepath.Join(dir, "gateway"): func() (pki.Pair, error) { return server("gateway-ca") },
		filepath.Join(serving, "tls"): func() (pki.Pair, error) { return server("webhook-ca") },
		filepath.Join(dir, "manager"): func() (pki.Pair, error) {
			return authorities["internal-ca"].Client("controller-manager")
		},
		filepath.Join(dir, "api"): func() (pki.Pair, error) {
			return authorities["internal-ca"].Client("openchoreo-api")
		},
		filepath.Join(dir, "agent"): func() (pki.Pair, error) { return authorities["agent-ca"].Client("default") },
	} {
		pair, err := sign()
		if err != nil {
			return nil, err
		}
		if err := pair.Write(path); err != nil {
			return nil, err
		}
	}
	return authorities["agent-ca"].PEM(), nil
}

// identity makes a service account with the part's rights, and a kubeconfig for it.
func (p *Plane) identity(ctx context.Context, part part) error {
	chart, err := os.ReadFile(part.role)
	if err != nil {
		return err
	}
	rules, err := rulesOf(chart)
	if err != nil {
		return fmt.Errorf("%s: %w", part.role, err)
	}
	role, err := json.Marshal(map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
		"metadata": map[string]any{"name": part.name}, "rules": rules,
	})
	if err != nil {
		return err
	}
	const rest = `
{apiVersion: v1, kind: Namespace, metadata: {name: %[2]s}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: %[1]s, namespace: %[2]s}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: %[1]s}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[2]s}]
`
	if err := p.cluster.Apply(ctx, role, fmt.Appendf(nil, rest, part.name, part.namespace)); err != nil {
		return err
	}
	day := int64((24 * time.Hour).Seconds())
	token, err := p.cluster.CoreV1().ServiceAccounts(part.namespace).CreateToken(ctx, part.name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &day}},
		metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return p.kubeconfig(part.name, &api.AuthInfo{Token: token.Status.Token})
}

// rulesOf returns the rules of the first role in a chart's template. They are plain YAML, unlike the text before and
// after them, but for conditions inside a rule, which hold by default.
func rulesOf(chart []byte) (any, error) {
	var rules []string
	for line := range strings.Lines(string(chart)) {
		if len(rules) > 0 && (strings.HasPrefix(line, "---") || strings.HasPrefix(line, "{{")) {
			break
		}
		if strings.HasPrefix(strings.TrimSpace(line), "{{") {
			continue
		}
		if len(rules) > 0 || strings.HasPrefix(line, "rules:") {
			rules = append(rules, line)
		}
	}
	var role struct{ Rules []any }
	if err := yaml.Unmarshal([]byte(strings.Join(rules, "")), &role); err != nil {
		return nil, err
	}
	if len(role.Rules) == 0 {
		return nil, fmt.Errorf("it has no rules")
	}
	return role.Rules, nil
}

// webhooks installs OpenChoreo's own webhook configurations, with the manager's address in the place of its Service.
func (p *Plane) webhooks(ctx context.Context) error {
	manifests, err := os.ReadFile(filepath.Join(p.programs.OpenChoreo, "config", "webhook", "manifests.yaml"))
	if err != nil {
		return err
	}
	authority, err := os.ReadFile(p.state.Path("pki", "openchoreo", "webhook-ca.crt"))
	if err != nil {
		return err
	}
	for document := range bytes.SplitSeq(manifests, []byte("\n---\n")) {
		configuration, err := atAddress(document, webhookURL, authority)
		if err != nil {
			return err
		}
		if err := p.cluster.Apply(ctx, configuration); err != nil {
			return err
		}
	}
	return nil
}

// atAddress replaces the services of a webhook configuration by a URL.
func atAddress(document []byte, url string, authority []byte) ([]byte, error) {
	var configuration map[string]any
	if err := yaml.Unmarshal(document, &configuration); err != nil {
		return nil, err
	}
	webhooks, _ := configuration["webhooks"].([]any)
	for _, entry := range webhooks {
		webhook, _ := entry.(map[string]any)
		client, _ := webhook["clientConfig"].(map[string]any)
		service, ok := client["service"].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("webhook %v has no service", webhook["name"])
		}
		webhook["clientConfig"] = map[string]any{"url": fmt.Sprint(url, service["path"]), "caBundle": authority}
	}
	return json.Marshal(configuration)
}

// agentConnected is nil when the gateway has logged the agent's connection since now: the plane's status tells it up to
// a minute later.
func (p *Plane) agentConnected() func(context.Context) error {
	log := p.state.Log("cluster-gateway")
	return func(context.Context) error {
		content, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if !bytes.Contains(content, []byte("agent connected successfully")) {
			return fmt.Errorf("%s does not tell of the agent", log)
		}
		return nil
	}
}
