package plane

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

// The secret store: ClusterSecretStore SecretStore is the Secrets of namespace StoreNamespace.
const (
	SecretStore    = "default"
	StoreNamespace = "secret-store"
)

var clusterSecretStores = schema.GroupVersionResource{
	Group: "external-secrets.io", Version: "v1", Resource: "clustersecretstores",
}

// startExternalSecrets starts the External Secrets Operator as a process of the node, with the flags that its chart
// gives it by default, and returns when it serves the secret store.
func (p *Plane) startExternalSecrets(ctx context.Context) error {
	operator := part{
		name: "external-secrets", namespace: "external-secrets",
		role: filepath.Join(p.programs.ExternalSecrets, "charts", "external-secrets", "templates", "rbac.yaml"),
	}
	if err := p.identity(ctx, operator); err != nil {
		return err
	}
	store, err := Secrets(apiServer)
	if err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, store); err != nil {
		return err
	}
	if err := p.run(ctx, node.Process{
		Name: operator.name,
		// The gateway has the port of its metrics.
		Args: []string{"external-secrets", "--metrics-addr=0", "--concurrent=1", "--loglevel=info"},
		Env:  []string{"KUBECONFIG=" + p.state.Kubeconfig(operator.name)},
	}); err != nil {
		return err
	}
	if err := poll(ctx, time.Minute, "ClusterSecretStore "+SecretStore, func() error {
		return p.storeReady(ctx)
	}); err != nil {
		return fmt.Errorf("%w; see %s", err, p.state.Log(operator.name))
	}
	p.say("External Secrets is ready")
	return nil
}

// Secrets is the manifests of the secret store, whose operator finds the API server at that URL.
func Secrets(server string) ([]byte, error) {
	return render("secretstore.yaml", map[string]string{
		"Namespace": StoreNamespace, "Store": SecretStore, "Server": server,
	})
}

// storeReady is nil when the operator says that it can read the store.
func (p *Plane) storeReady(ctx context.Context) error {
	store, err := p.cluster.dynamic.Resource(clusterSecretStores).Get(ctx, SecretStore, metav1.GetOptions{})
	if err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(store.Object, "status", "conditions")
	for _, condition := range conditions {
		if c, ok := condition.(map[string]any); ok && c["type"] == "Ready" && c["status"] == "True" {
			return nil
		}
	}
	return errors.New("it is not ready")
}
