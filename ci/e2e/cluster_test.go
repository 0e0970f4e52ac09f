//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/sampletest"
)

var (
	openchoreo = schema.GroupVersion{Group: "openchoreo.dev", Version: "v1alpha1"}

	workflowRuns     = openchoreo.WithResource("workflowruns")
	workloads        = openchoreo.WithResource("workloads")
	clusterWorkflows = openchoreo.WithResource("clusterworkflows")
	workflows        = schema.GroupVersionResource{Group: "argoproj.io", Version: "v1alpha1", Resource: "workflows"}
	externalSecrets  = schema.GroupVersionResource{
		Group:    "external-secrets.io",
		Version:  "v1",
		Resource: "externalsecrets",
	}
)

// cluster is the Kubernetes that the tests run in.
type cluster struct {
	kubeconfig string
	dynamic    dynamic.Interface
	core       kubernetes.Interface
}

func connect(kubeconfig string) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100
	d, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	core, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &cluster{kubeconfig, d, core}, nil
}

// kubectl runs what a platform engineer would, with input on standard input.
func (c *cluster) kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// apply is kubectl apply of these objects.
func (c *cluster) apply(ctx context.Context, objects ...any) error {
	var docs []string
	for _, o := range objects {
		raw, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		docs = append(docs, string(raw))
	}
	_, err := c.kubectl(ctx, strings.Join(docs, "---\n"), "apply", "-f", "-")
	return err
}

// get reads an object into a type; it is nil when there is none.
func get[T any](
	ctx context.Context, c *cluster, resource schema.GroupVersionResource, namespace, name string,
) (*T, error) {
	u, err := c.dynamic.Resource(resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return decode[T](u)
}

func decode[T any](u *unstructured.Unstructured) (*T, error) {
	o := new(T)
	return o, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o)
}

func (c *cluster) run(ctx context.Context, name string) (*v1alpha1.WorkflowRun, error) {
	return get[v1alpha1.WorkflowRun](ctx, c, workflowRuns, namespace, name)
}

func (c *cluster) workflow(ctx context.Context, name string) (*argo.Workflow, error) {
	return get[argo.Workflow](ctx, c, workflows, planeNamespace, name)
}

// poke makes OpenChoreo look at a run at once, instead of after up to 20 s: any write to the run does.
func (c *cluster) poke(ctx context.Context, namespace, run string) error {
	patch := fmt.Sprintf(
		`{"metadata":{"annotations":{"stepwright.test/poke":%q}}}`, time.Now().Format(time.RFC3339Nano),
	)
	_, err := c.kubectl(ctx, "", "-n", namespace, "patch", "workflowrun", run, "--type=merge", "-p", patch)
	return err
}

// atNight skips a case that takes minutes unless -exhaustive asks for all.
func atNight(t *testing.T) {
	t.Helper()
	if !sampletest.Exhaustive() {
		t.Skip("it takes minutes: it runs with -exhaustive")
	}
}

// eventually tries until done returns true. At the deadline it fails the test with what done last said was missing.
func eventually(t *testing.T, limit time.Duration, what string, done func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	var last error
	for tick := time.NewTicker(250 * time.Millisecond); ; {
		ok, err := done(ctx)
		if ok {
			return
		}
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, limit, last)
		}
	}
}

// must fails the test on an error.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// canonical is JSON with sorted keys, to compare objects by.
func canonical(t *testing.T, o any) string {
	t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(raw, &plain); err != nil {
		t.Fatal(err)
	}
	raw, err = json.MarshalIndent(plain, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
