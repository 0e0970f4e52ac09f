package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// What Argo and its executor call things.
const (
	workflowLabel  = "workflows.argoproj.io/workflow"
	phaseLabel     = "workflows.argoproj.io/phase"
	completedLabel = "workflows.argoproj.io/completed"
	reportedLabel  = "workflows.argoproj.io/report-outputs-completed"
	nodeIDKey      = "workflows.argoproj.io/node-id"
)

// executor stands in for the container of Argo's in each simulated pod. It makes the three requests of each pod that
// argoexec makes: one when the pod has started, one with the outputs, and one that says that they are all.
type executor struct {
	dynamic dynamic.Interface
	outputs map[string]*argo.Outputs // by step: what a real run's steps gave
	steps   map[string]time.Duration

	group  sync.WaitGroup
	mu     sync.Mutex
	seen   map[types.UID]bool
	work   map[string]time.Duration // by run: what its simulated steps worked
	faults []error
}

func newExecutor(client dynamic.Interface, steps []work, outputs map[string]*argo.Outputs) *executor {
	e := &executor{
		dynamic: client, outputs: outputs, steps: map[string]time.Duration{}, seen: map[types.UID]bool{},
		work: map[string]time.Duration{},
	}
	for _, s := range steps {
		e.steps[s.Step] = s.Duration
	}
	return e
}

// watch looks at running pods until the context ends.
func (e *executor) watch(ctx context.Context, client kubernetes.Interface) {
	source := cache.NewFilteredListWatchFromClient(
		client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, func(o *metav1.ListOptions) {
			o.LabelSelector, o.FieldSelector = workflowLabel, "status.phase=Running"
		},
	)
	started := func(object any) {
		if pod, ok := object.(*corev1.Pod); ok {
			e.start(ctx, pod)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: source, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: started},
	})
	controller.RunWithContext(ctx)
	e.group.Wait()
}

// start follows a pod that has started, if it is simulated and was not followed yet.
func (e *executor) start(ctx context.Context, pod *corev1.Pod) {
	if pod.Spec.NodeSelector[nodeLabel] == "" {
		return
	}
	step := pod.Labels[stepLabel]
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen[pod.UID] {
		return
	}
	e.seen[pod.UID] = true
	e.work[pod.Labels[workflowLabel]] += e.steps[step]
	e.group.Go(func() {
		if err := e.report(ctx, pod, step); err != nil && ctx.Err() == nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.faults = append(e.faults, fmt.Errorf("executor of %s: %w", pod.Name, err))
		}
	})
}

// early is how long before the end of the main container's work its outputs are there: a real executor reads them when
// the container has ended, and the pod ends after that. Here kwok ends the pod.
const early = 200 * time.Millisecond

func (e *executor) report(ctx context.Context, pod *corev1.Pod, step string) error {
	results := e.dynamic.Resource(taskResults).Namespace(pod.Namespace)
	made, err := taskResult(pod)
	if err != nil {
		return err
	}
	if _, err := results.Create(ctx, made, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(e.steps[step] - early):
	}
	outputs, err := json.Marshal(map[string]any{"outputs": e.outputs[step]})
	if err != nil {
		return err
	}
	complete := []byte(`{"metadata":{"labels":{"` + reportedLabel + `":"true"}}}`)
	for _, patch := range [][]byte{outputs, complete} {
		if _, err := results.Patch(
			ctx, made.GetName(), types.MergePatchType, patch, metav1.PatchOptions{},
		); err != nil && !apierrors.IsNotFound(err) { // the run was deleted
			return err
		}
	}
	return nil
}

// taskResult is what an executor makes when its pod has started.
func taskResult(pod *corev1.Pod) (*unstructured.Unstructured, error) {
	id := pod.Annotations[nodeIDKey]
	owner := metav1.GetControllerOf(pod)
	if id == "" || owner == nil {
		return nil, fmt.Errorf("pod %s has no node of Argo's, or no owner", pod.Name)
	}
	result := &argo.WorkflowTaskResult{
		TypeMeta: metav1.TypeMeta{APIVersion: "argoproj.io/v1alpha1", Kind: "WorkflowTaskResult"},
		ObjectMeta: metav1.ObjectMeta{
			Name: id, Namespace: pod.Namespace,
			Labels: map[string]string{workflowLabel: pod.Labels[workflowLabel], reportedLabel: "false"},
			OwnerReferences: []metav1.OwnerReference{
				{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID},
			},
		},
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(result)
	return &unstructured.Unstructured{Object: object}, err
}

// worked is how long a run's simulated steps have worked.
func (e *executor) worked(run string) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.work[run]
}

// faulty are the faults that there were.
func (e *executor) faulty() []error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.faults
}

// stepOutputs are the outputs of a run's steps, by their names in stepLabel.
func stepOutputs(workflow *argo.Workflow, stepOf map[string]string) map[string]*argo.Outputs {
	all := map[string]*argo.Outputs{}
	for _, n := range workflow.Status.Nodes {
		if n.Type != argo.NodeTypePod || n.Outputs == nil {
			continue
		}
		all[stepOf[n.ID]] = &argo.Outputs{Parameters: n.Outputs.Parameters}
	}
	return all
}
