package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Names of settings of Argo's controller.
const (
	defaults    = "defaults"
	recommended = "recommended"
)

// argoSettings are what matters of Argo's controller with many runs.
type argoSettings struct {
	Workers              int
	QPS                  float64
	Burst                int
	Requeue              string // DEFAULT_REQUEUE_TIME
	Parallelism          int    // 0: no limit
	NamespaceParallelism int    // 0: no limit
	MemoryLimit          string // GOMEMLIMIT; empty: none
}

// argoDefaults are what Argo has by itself.
var argoDefaults = argoSettings{Workers: 32, QPS: 20, Burst: 30, Requeue: "10s"}

// recommendation is the settings that the page recommends for so many runs at once.
func recommendation(runs int) argoSettings {
	s := argoSettings{Workers: 32, QPS: 50, Burst: 100, Requeue: "2s"}
	if runs >= 100 {
		s.QPS, s.Burst, s.Parallelism, s.NamespaceParallelism = 100, 200, 50, 40
	}
	if runs >= 1000 {
		s.MemoryLimit = "430MiB"
	}
	return s
}

// settingsOf are the settings of a name for so many runs, as the command line changes them.
func (o options) settingsOf(name string, runs int) argoSettings {
	s := argoDefaults
	if name == recommended {
		s = recommendation(runs)
	}
	if o.override.Parallelism >= 0 {
		s.Parallelism = o.override.Parallelism
	}
	if o.override.QPS > 0 {
		s.QPS, s.Burst = o.override.QPS, int(2*o.override.QPS)
	}
	return s
}

// flags are the settings that Argo's controller takes on its command line.
func (s argoSettings) flags() []string {
	return []string{
		"--workflow-workers", strconv.Itoa(s.Workers),
		"--qps", strconv.FormatFloat(s.QPS, 'f', -1, 64), "--burst", strconv.Itoa(s.Burst),
	}
}

// configMap is the rest, as the data of workflow-controller-configmap.
func (s argoSettings) configMap() map[string]string {
	data := map[string]string{}
	if s.Parallelism > 0 {
		data["parallelism"] = strconv.Itoa(s.Parallelism)
	}
	if s.NamespaceParallelism > 0 {
		data["namespaceParallelism"] = strconv.Itoa(s.NamespaceParallelism)
	}
	return data
}

// What Argo's manifests call its controller.
const (
	argoNamespace  = "argo"
	argoDeployment = "workflow-controller"
	argoConfig     = "workflow-controller-configmap"
	memoryLimit    = "GOMEMLIMIT" // of Go's runtime
)

// configure starts Argo's controller anew with these settings.
func (c *cluster) configure(ctx context.Context, s argoSettings) error {
	config, err := c.core.CoreV1().ConfigMaps(argoNamespace).Get(ctx, argoConfig, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if config.Data == nil {
		config.Data = map[string]string{}
	}
	delete(config.Data, "parallelism")
	delete(config.Data, "namespaceParallelism")
	for key, value := range s.configMap() {
		config.Data[key] = value
	}
	if _, err := c.core.CoreV1().ConfigMaps(argoNamespace).Update(ctx, config, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := c.redeploy(ctx, s); err != nil {
		return err
	}
	return poll(ctx, 2*time.Minute, time.Second, "Argo's controller", func(ctx context.Context) error {
		d, err := c.core.AppsV1().Deployments(argoNamespace).Get(ctx, argoDeployment, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas != 1 ||
			d.Status.Replicas != 1 || d.Status.AvailableReplicas != 1 {
			return errors.New("it is not available")
		}
		return c.leads(ctx)
	})
}

// leads is an error until Argo's controller has one pod only, which leads: one that is about to end leads until it has
// ended, and with the settings of before.
func (c *cluster) leads(ctx context.Context) error {
	pods, err := c.core.CoreV1().Pods(argoNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app=" + argoDeployment,
	})
	if err != nil {
		return err
	}
	if len(pods.Items) != 1 {
		return fmt.Errorf("it has %d pods", len(pods.Items))
	}
	lease, err := c.core.CoordinationV1().Leases(argoNamespace).Get(ctx, argoDeployment, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if holder, pod := lease.Spec.HolderIdentity, pods.Items[0].Name; holder == nil || *holder != pod {
		return fmt.Errorf("%s does not lead yet", pod)
	}
	return nil
}

// redeploy gives the Deployment of Argo's controller its flags, besides those that have nothing to do with it.
func (c *cluster) redeploy(ctx context.Context, s argoSettings) error {
	deployment, err := c.core.AppsV1().Deployments(argoNamespace).Get(ctx, argoDeployment, metav1.GetOptions{})
	if err != nil {
		return err
	}
	container := deployment.Spec.Template.Spec.Containers[0]
	env := []any{map[string]any{"name": "DEFAULT_REQUEUE_TIME", "value": s.Requeue}}
	if s.MemoryLimit == "" {
		env = append(env, map[string]any{"name": memoryLimit, "$patch": "delete"})
	} else {
		env = append(env, map[string]any{"name": memoryLimit, "value": s.MemoryLimit})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{"stepwright.test/at": time.Now().String()}},
		"spec": map[string]any{"containers": []any{map[string]any{
			"name": container.Name,
			"args": append(withoutFlags(container.Args, s.flags()), s.flags()...),
			"env":  env,
		}}},
	}}})
	if err != nil {
		return err
	}
	_, err = c.core.AppsV1().Deployments(argoNamespace).Patch(
		ctx, argoDeployment, types.StrategicMergePatchType, patch, metav1.PatchOptions{},
	)
	return err
}

// withoutFlags leaves out flags, each with its value, of a command line.
func withoutFlags(args, flags []string) []string {
	var kept []string
	for i := 0; i < len(args); i++ {
		if strings.HasPrefix(args[i], "--") && slices.Contains(flags, args[i]) {
			i++
			continue
		}
		kept = append(kept, args[i])
	}
	return kept
}

// argoMetrics is where Argo's controller tells its metrics. It moves when the pod is replaced.
func (c *cluster) argoMetrics(ctx context.Context) (string, error) {
	pods, err := c.core.CoreV1().Pods(argoNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app=" + argoDeployment, FieldSelector: "status.phase=" + string(corev1.PodRunning),
	})
	if err != nil {
		return "", err
	}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil && p.Status.PodIP != "" {
			return "https://" + net.JoinHostPort(p.Status.PodIP, "9090") + "/metrics", nil
		}
	}
	return "", errors.New("no pod of Argo's controller runs")
}
