// Package workflowplane looks at the runs of a cluster in which Argo Workflows runs them, and shows each as OpenChoreo
// does: as a WorkflowRun.
package workflowplane

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
)

// Plane is a cluster. Every error of its methods that the cluster is the cause of is an *outcome.Error.
type Plane struct {
	client rest.Interface
	host   string
}

// Open reads a kubeconfig; the context may be empty for the current one. Nothing is asked of the cluster yet.
func Open(kubeconfig, context string) (*Plane, error) {
	loading := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(loading, &clientcmd.ConfigOverrides{
		CurrentContext: context,
	}).ClientConfig()
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "kubeconfig %s: %w", kubeconfig, err).WithHint(
			"Give a file that kubectl --kubeconfig takes, and with --context the name of one of its contexts.",
		)
	}
	return connect(config)
}

func connect(config *rest.Config) (*Plane, error) {
	known := runtime.NewScheme()
	metav1.AddToGroupVersion(known, schema.GroupVersion{Version: "v1"}) // for Status, which every refusal is
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = serializer.NewCodecFactory(known).WithoutConversion()
	config.UserAgent = "stepwright"
	config.WarningHandler = rest.NoWarnings{}
	client, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "%w", err).WithHint(
			"Check the cluster and the user in the kubeconfig.",
		)
	}
	return &Plane{client: client, host: config.Host}, nil
}

// patience is how long an answer may take; logs that are followed may take for ever.
const patience = 20 * time.Second

// get reads an object or a list.
func (p *Plane) get(ctx context.Context, what, path string, query url.Values, into any) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request := p.client.Get().AbsPath(path)
	for name, values := range query {
		request.Param(name, values[0])
	}
	answer := request.Do(limited)
	if err := answer.Error(); err != nil { // it has the server's own words, which Raw's error has not
		return p.explain(ctx, what, err)
	}
	raw, err := answer.Raw()
	if err != nil {
		return p.explain(ctx, what, err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return outcome.Errorf(
			outcome.ApiUnavailable, "%s: what %s answers is no answer of Kubernetes: %w", what, p.host, err,
		)
	}
	return nil
}

// prefix is what OpenChoreo puts before the name of a namespace to get that of its runs' Argo Workflows.
const prefix = "workflows-"

// namespaces returns the cluster's namespaces that may hold the runs of an OpenChoreo namespace; that one itself comes
// last, for workflows that OpenChoreo did not make.
func namespaces(name string) []string {
	if name == "" || strings.HasPrefix(name, prefix) {
		return []string{name}
	}
	return []string{prefix + name, name}
}

// workflowsPath is the path of a namespace's Argo Workflows; without one, of all.
func workflowsPath(namespace string) string {
	const group = "/apis/argoproj.io/v1alpha1"
	if namespace == "" {
		return group + "/workflows"
	}
	return group + "/namespaces/" + url.PathEscape(namespace) + "/workflows"
}

// workflows finds Argo Workflows of a namespace, those of a name when it is not empty.
func (p *Plane) workflows(ctx context.Context, namespace, name string) ([]wfv1.Workflow, error) {
	var all []wfv1.Workflow
	var refused []error
	candidates := namespaces(namespace)
	for _, namespace := range candidates {
		what := "Argo Workflows of every namespace"
		if namespace != "" {
			what = "Argo Workflows in namespace " + namespace
		}
		query := url.Values{}
		if name != "" {
			query.Set("fieldSelector", "metadata.name="+name)
		}
		var list struct {
			Items []wfv1.Workflow `json:"items"`
		}
		err := p.get(ctx, what, workflowsPath(namespace), query, &list)
		switch failed, _ := errors.AsType[*outcome.Error](err); {
		case failed == nil && err != nil:
			return nil, err
		case failed == nil:
			all = append(all, list.Items...)
		case failed.Reason == outcome.Forbidden:
			refused = append(refused, err) // one of the two may be nothing of this user's
		case failed.Reason == outcome.NotFound:
			failed.Hint = "Argo Workflows is not installed in this cluster: choose that of the WorkflowPlane with " +
				"--kubeconfig or --context."
			return nil, err
		default:
			return nil, err
		}
	}
	if len(refused) == len(candidates) {
		return nil, refused[0]
	}
	return all, nil
}

// List returns the runs of a namespace, or of all, the newest first.
func (p *Plane) List(ctx context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error) {
	found, err := p.workflows(ctx, namespace, "")
	if err != nil {
		return nil, err
	}
	runs := make([]*v1alpha1.WorkflowRun, 0, len(found))
	for i := range found {
		runs = append(runs, asRun(&found[i]))
	}
	slices.SortStableFunc(runs, func(a, b *v1alpha1.WorkflowRun) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	return runs, nil
}

// Get returns a run. The namespace may be empty where only one has a run of that name. The error may be a
// *runstatus.NotFoundError.
//
// Where OpenChoreo itself is, it knows more of the run than its workflow tells: its parameters, and the Workload that
// came of it. And it knows runs that have no workflow, not yet or no more.
func (p *Plane) Get(ctx context.Context, namespace, name string) (*v1alpha1.WorkflowRun, error) {
	workflow, err := p.workflow(ctx, namespace, name)
	if _, missing := errors.AsType[*runstatus.NotFoundError](err); missing && namespace != "" {
		stored, failure := p.stored(ctx, strings.TrimPrefix(namespace, prefix), name)
		if failure != nil {
			return nil, failure
		}
		if stored != nil {
			return stored, nil
		}
	}
	if err != nil {
		return nil, err
	}
	run := asRun(workflow)
	stored, err := p.stored(ctx, run.Namespace, run.Name)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		return run, nil
	}
	runstatus.Observe(stored, workflow)
	return stored, nil
}

// stored is the WorkflowRun that OpenChoreo has; nil where OpenChoreo is not, or not for this user to look at.
func (p *Plane) stored(ctx context.Context, namespace, name string) (*v1alpha1.WorkflowRun, error) {
	run := new(v1alpha1.WorkflowRun)
	path := "/apis/" + v1alpha1.GroupVersion.String() + "/namespaces/" + url.PathEscape(namespace) +
		"/workflowruns/" + url.PathEscape(name)
	err := p.get(ctx, "WorkflowRun "+namespace+"/"+name, path, nil, run)
	if refused, ok := errors.AsType[*outcome.Error](err); ok && (refused.Reason == outcome.NotFound ||
		refused.Reason == outcome.Forbidden) {
		return nil, nil
	}
	run.TypeMeta, run.ManagedFields = kind, nil
	return run, err
}

var kind = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkflowRun"}

func (p *Plane) workflow(ctx context.Context, namespace, name string) (*wfv1.Workflow, error) {
	found, err := p.workflows(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	var where []string
	for _, w := range found {
		where = append(where, w.Namespace)
	}
	switch len(found) {
	case 0:
		there, err := p.List(ctx, namespace)
		if err != nil {
			return nil, err
		}
		missing := &runstatus.NotFoundError{Name: name, Where: p.place(namespace)}
		for _, run := range there[:min(len(there), mentioned)] {
			missing.There = append(missing.There, run.Namespace+"/"+run.Name)
		}
		return nil, missing
	case 1:
		return &found[0], nil
	}
	return nil, &runstatus.AmbiguousError{Name: name, Namespaces: where}
}

// place names where the runs of a namespace are.
func (p *Plane) place(namespace string) string {
	if namespace == "" {
		return "the cluster at " + p.host
	}
	return "namespace " + strings.Join(namespaces(namespace), " or ") + " of the cluster at " + p.host
}

// mentioned is how many runs an error names at most.
const mentioned = 10

// asRun is the WorkflowRun that a workflow is of, as far as the workflow tells.
func asRun(workflow *wfv1.Workflow) *v1alpha1.WorkflowRun {
	run := &v1alpha1.WorkflowRun{TypeMeta: kind}
	run.Name, run.CreationTimestamp = workflow.Name, workflow.CreationTimestamp
	run.Namespace = workflow.Labels["openchoreo.dev/workflowrun-namespace"]
	if run.Namespace == "" {
		run.Namespace = strings.TrimPrefix(workflow.Namespace, prefix)
	}
	for label, parameter := range map[string]string{
		workflowrun.ProjectLabel:   "project-name",
		workflowrun.ComponentLabel: "component-name",
	} {
		if given := workflow.Spec.Arguments.GetParameterByName(parameter); given != nil && given.Value != nil {
			metav1.SetMetaDataLabel(&run.ObjectMeta, label, given.Value.String())
		}
	}
	runstatus.Observe(run, workflow)
	return run
}

// Interval is how often a run in a cluster may be looked at.
const Interval = time.Second
