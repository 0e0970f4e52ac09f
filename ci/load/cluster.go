package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepwright/stepwright/templates"
)

var (
	openchoreo       = schema.GroupVersion{Group: "openchoreo.dev", Version: "v1alpha1"}
	argoproj         = schema.GroupVersion{Group: "argoproj.io", Version: "v1alpha1"}
	workflowRuns     = openchoreo.WithResource("workflowruns")
	clusterWorkflows = openchoreo.WithResource("clusterworkflows")
	componentTypes   = openchoreo.WithResource("clustercomponenttypes")
	workflows        = argoproj.WithResource("workflows")
	taskResults      = argoproj.WithResource("workflowtaskresults")
)

// The OpenChoreo namespace of examples/first-cluster, and another one beside it.
const (
	namespace = "acme"
	neighbour = "globex"
	component = "greeting-service"
	project   = "online-store"
	simulated = templates.DockerfileBuilder + "-simulated"
)

// cluster is the Kubernetes that is measured. What its clients ask is counted, so that it can be taken off.
type cluster struct {
	core     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
	executor dynamic.Interface // asks in the stead of pods, and is not counted
	asked    atomic.Int64
}

func connect(kubeconfig string) (*cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the server limits itself
	config.WarningHandler = rest.NoWarnings{}
	c := &cluster{}
	if c.executor, err = dynamic.NewForConfig(config); err != nil {
		return nil, err
	}
	counted := rest.CopyConfig(config)
	counted.Wrap(func(next http.RoundTripper) http.RoundTripper { return counter{next, &c.asked} })
	var errs [3]error
	c.core, errs[0] = kubernetes.NewForConfig(counted)
	c.dynamic, errs[1] = dynamic.NewForConfig(counted)
	c.metadata, errs[2] = metadata.NewForConfig(counted)
	return c, errors.Join(errs[:]...)
}

type counter struct {
	next  http.RoundTripper
	asked *atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (c counter) RoundTrip(request *http.Request) (*http.Response, error) {
	c.asked.Add(1)
	return c.next.RoundTrip(request)
}

// install applies the templates as the guide does, and a ClusterWorkflow whose pods may be on simulated nodes.
func (c *cluster) install(ctx context.Context) error {
	for _, args := range [][]string{{"-k", "examples/first-cluster"}, {"-f", application + "/component.yaml"}} {
		cmd := exec.CommandContext(ctx, "kubectl", append([]string{"apply"}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w\n%s", cmd, err, out.Bytes())
		}
	}
	workflow, err := c.dynamic.Resource(clusterWorkflows).Get(ctx, templates.DockerfileBuilder, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := simulate(workflow); err != nil {
		return err
	}
	if _, err := c.dynamic.Resource(clusterWorkflows).Apply(
		ctx, simulated, workflow, metav1.ApplyOptions{FieldManager: "load", Force: true},
	); err != nil {
		return err
	}
	return errors.Join(c.allow(ctx), c.settle(ctx))
}

// components is how many there are whose runs are simulated. Runs of one component write its Workload one after the
// other.
const components = 100

// componentOf is the component of a simulated run.
func componentOf(run int) string { return fmt.Sprintf("%s-%02d", simulated, run%components) }

// settle makes the neighbour, with a project like the first one's, and in both namespaces components whose runs are
// simulated: OpenChoreo lets a run use its component's own workflow only.
func (c *cluster) settle(ctx context.Context) error {
	if _, err := c.core.CoreV1().Namespaces().Create(
		ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: neighbour}}, metav1.CreateOptions{},
	); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	err := errors.Join(
		c.copyTo(ctx, neighbour, "projects", project, project, nil),
		c.copyTo(ctx, neighbour, "components", component, componentOf(0), withSimulation),
	)
	for i := range components {
		err = errors.Join(err, c.copyTo(ctx, namespace, "components", component, componentOf(i), withSimulation))
	}
	return err
}

// withSimulation gives a component the ClusterWorkflow of simulated runs.
func withSimulation(component map[string]any) error {
	return unstructured.SetNestedField(component, simulated, "spec", "workflow", "name")
}

// copyTo makes an object of the first namespace in another one, or by another name.
func (c *cluster) copyTo(
	ctx context.Context, to, resource, name, newName string, change func(map[string]any) error,
) error {
	of := c.dynamic.Resource(openchoreo.WithResource(resource))
	object, err := of.Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	copied := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": object.GetAPIVersion(), "kind": object.GetKind(), "spec": object.Object["spec"],
		"metadata": map[string]any{"name": newName, "namespace": to},
	}}
	if change != nil {
		if err := change(copied.Object); err != nil {
			return err
		}
	}
	_, err = of.Namespace(to).Apply(ctx, newName, copied, metav1.ApplyOptions{FieldManager: "load", Force: true})
	return err
}

// simulate gives a ClusterWorkflow another name, and its pods the simulated nodes.
func simulate(workflow *unstructured.Unstructured) error {
	for _, field := range []string{
		"resourceVersion", "uid", "creationTimestamp", "generation", "managedFields", "annotations",
	} {
		unstructured.RemoveNestedField(workflow.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(workflow.Object, "status")
	workflow.SetName(simulated)
	spec := []string{"spec", "runTemplate", "spec"}
	return errors.Join(
		unstructured.SetNestedStringMap(
			workflow.Object, map[string]string{nodeLabel: "true"}, append(spec, "nodeSelector")...,
		),
		unstructured.SetNestedSlice(workflow.Object, []any{
			map[string]any{"key": nodeLabel, "operator": "Exists", "effect": "NoSchedule"},
		}, append(spec, "tolerations")...),
	)
}

// allow lets components of the type service use the ClusterWorkflow of simulated runs.
func (c *cluster) allow(ctx context.Context) error {
	of, err := c.dynamic.Resource(componentTypes).Get(ctx, "service", metav1.GetOptions{})
	if err != nil {
		return err
	}
	allowed, _, err := unstructured.NestedSlice(of.Object, "spec", "allowedWorkflows")
	if err != nil {
		return err
	}
	allowed = append(allowed, map[string]any{"kind": "ClusterWorkflow", "name": simulated})
	if err := unstructured.SetNestedSlice(of.Object, allowed, "spec", "allowedWorkflows"); err != nil {
		return err
	}
	_, err = c.dynamic.Resource(componentTypes).Update(ctx, of, metav1.UpdateOptions{})
	return err
}

// workflowRun is a run of a namespace's component by a ClusterWorkflow.
func workflowRun(in, name, of, workflow, git string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": openchoreo.String(), "kind": "WorkflowRun",
		"metadata": map[string]any{
			"name": name, "namespace": in,
			"labels": map[string]any{"openchoreo.dev/project": project, "openchoreo.dev/component": of},
		},
		"spec": map[string]any{"workflow": map[string]any{
			"kind": "ClusterWorkflow", "name": workflow,
			"parameters": map[string]any{
				"repository": map[string]any{
					"url": git, "revision": map[string]any{"branch": "main"}, "appPath": ".",
				},
				"docker": map[string]any{"context": ".", "filePath": "./Dockerfile"},
			},
		}},
	}}
}

// list reads all objects of a resource, some at a time, since Workflows are large.
func list[T any](ctx context.Context, c *cluster, of schema.GroupVersionResource, each func(*T)) error {
	for options := (metav1.ListOptions{Limit: 50}); ; {
		page, err := c.dynamic.Resource(of).List(ctx, options)
		if err != nil {
			return err
		}
		for i := range page.Items {
			object := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(page.Items[i].Object, object); err != nil {
				return err
			}
			each(object)
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return nil
		}
	}
}

func (c *cluster) eachWorkflow(ctx context.Context, each func(*argo.Workflow)) error {
	return list(ctx, c, workflows, each)
}

func (c *cluster) eachRun(ctx context.Context, each func(*v1alpha1.WorkflowRun)) error {
	return list(ctx, c, workflowRuns, each)
}

// phases counts the Workflows by what Argo's label says of each, without reading them.
func (c *cluster) phases(ctx context.Context) (map[string]int, error) {
	all, err := c.metadata.Resource(workflows).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, w := range all.Items {
		phase := w.Labels[phaseLabel]
		if w.Labels[completedLabel] == "true" {
			counts["ended"]++
		}
		counts[phase]++
	}
	return counts, nil
}

// claims counts the claims and the volumes that there are.
func (c *cluster) claims(ctx context.Context) (claims, volumes int, err error) {
	all, err := c.core.CoreV1().PersistentVolumeClaims(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	bound, err := c.core.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, 0, err
	}
	return len(all.Items), len(bound.Items), nil
}

// clear deletes all runs, and returns when nothing of them is left on the plane.
func (c *cluster) clear(ctx context.Context) error {
	for _, in := range []string{namespace, neighbour} {
		if err := c.dynamic.Resource(workflowRuns).Namespace(in).DeleteCollection(
			ctx, metav1.DeleteOptions{}, metav1.ListOptions{},
		); err != nil {
			return err
		}
	}
	return poll(ctx, 10*time.Minute, time.Second, "end of deleted runs", func(ctx context.Context) error {
		for of, labels := range map[schema.GroupVersionResource]string{
			workflowRuns: "", workflows: "", {Version: "v1", Resource: "pods"}: workflowLabel,
			{Version: "v1", Resource: "persistentvolumeclaims"}:                        "",
			{Group: "external-secrets.io", Version: "v1", Resource: "externalsecrets"}: "",
		} {
			left, err := c.metadata.Resource(of).List(
				ctx, metav1.ListOptions{ResourceVersion: "0", LabelSelector: labels},
			)
			if err != nil {
				return err
			}
			if len(left.Items) > 0 {
				return fmt.Errorf("there are %d %s", len(left.Items), of.Resource)
			}
		}
		return nil
	})
}

// restartManager starts OpenChoreo's manager anew, as each experiment begins with a fresh one.
func restartManager(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "cluster", "restart", "manager")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
