// Package workflowplane looks at the runs of a cluster in which Argo Workflows runs them, and shows each as OpenChoreo
// does: as a WorkflowRun.
package workflowplane

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
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
	"k8s.io/apimachinery/pkg/types"
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

// Open reads a kubeconfig; the context may be empty for the current one. Without a path the configuration is found as
// kubectl finds it. Nothing is asked of the cluster yet.
func Open(kubeconfig, context string) (*Plane, error) {
	loading := clientcmd.NewDefaultClientConfigLoadingRules()
	if kubeconfig != "" {
		loading = &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
	}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(loading, &clientcmd.ConfigOverrides{
		CurrentContext: context,
	}).ClientConfig()
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "kubeconfig %s: %w",
			cmp.Or(kubeconfig, strings.Join(loading.GetLoadingPrecedence(), ", ")), err).WithHint(
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
	config.QPS, config.Burst = 50, 100 // a person waits
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

// List returns the runs of a namespace, or of all, the newest first. Where OpenChoreo is, they are its WorkflowRuns,
// those without a workflow among them, and the workflows that nobody made by one.
func (p *Plane) List(ctx context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error) {
	found, err := p.workflows(ctx, namespace, "")
	if err != nil {
		return nil, err
	}
	stored, err := p.allStored(ctx, strings.TrimPrefix(namespace, prefix))
	if err != nil {
		return nil, err
	}
	runs := make([]*v1alpha1.WorkflowRun, 0, len(found))
	for i := range found {
		run := asRun(&found[i])
		if known := stored[run.Namespace+"/"+run.Name]; known != nil {
			delete(stored, run.Namespace+"/"+run.Name)
			runstatus.Observe(known, &found[i])
			run = known
		}
		runs = append(runs, run)
	}
	runs = slices.AppendSeq(runs, maps.Values(stored))
	slices.SortStableFunc(runs, func(a, b *v1alpha1.WorkflowRun) int {
		return cmp.Or(
			b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace),
			// As generate-workload-cr orders runs of one second.
			cmp.Compare(len(b.Name), len(a.Name)), cmp.Compare(b.Name, a.Name),
		)
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
	if withheld(err) {
		return nil, nil
	}
	run.TypeMeta, run.ManagedFields = kind, nil
	return run, err
}

// allStored are the WorkflowRuns that OpenChoreo has in a namespace, or in all, by namespace/name; none where
// OpenChoreo is not, or not for this user to look at.
func (p *Plane) allStored(ctx context.Context, namespace string) (map[string]*v1alpha1.WorkflowRun, error) {
	path := "/apis/" + v1alpha1.GroupVersion.String()
	if namespace != "" {
		path += "/namespaces/" + url.PathEscape(namespace)
	}
	var list v1alpha1.WorkflowRunList
	if err := p.get(ctx, "WorkflowRuns", path+"/workflowruns", nil, &list); err != nil && !withheld(err) {
		return nil, err
	}
	all := map[string]*v1alpha1.WorkflowRun{}
	for i := range list.Items {
		run := &list.Items[i]
		run.TypeMeta, run.ManagedFields = kind, nil
		all[run.Namespace+"/"+run.Name] = run
	}
	return all, nil
}

// withheld tells whether an error says that there is no such thing, or none for this user.
func withheld(err error) bool {
	refused, ok := errors.AsType[*outcome.Error](err)
	return ok && (refused.Reason == outcome.NotFound || refused.Reason == outcome.Forbidden)
}

// Component is a Component as OpenChoreo has it.
func (p *Plane) Component(ctx context.Context, namespace, name string) (*v1alpha1.Component, error) {
	component := new(v1alpha1.Component)
	path := "/apis/" + v1alpha1.GroupVersion.String() + "/namespaces/" + url.PathEscape(namespace) +
		"/components/" + url.PathEscape(name)
	err := p.get(ctx, "Component "+namespace+"/"+name, path, nil, component)
	if failed, ok := errors.AsType[*outcome.Error](err); ok {
		switch failed.Reason {
		case outcome.NotFound:
			failed.Hint = "Choose the namespace with --namespace, and the cluster of OpenChoreo's control plane with " +
				"--kubeconfig or --context; or give the Component's file."
		case outcome.Forbidden:
			failed.Hint = "The user of the kubeconfig needs a Role with get on components.openchoreo.dev in " +
				"namespace " + namespace + "; or give the Component's file."
		}
	}
	component.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Component"}
	component.ManagedFields, component.Status = nil, v1alpha1.ComponentStatus{}
	return component, err
}

// Cancel has Argo end a run's workflow: what runs is stopped, and then the workflow's exit handlers run.
func (p *Plane) Cancel(ctx context.Context, run *v1alpha1.WorkflowRun) error {
	where := run.Status.RunReference
	if where == nil {
		return outcome.Errorf(outcome.NotFound, "run %s/%s has no workflow to cancel", run.Namespace, run.Name)
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.client.Patch(types.MergePatchType).AbsPath(workflowsPath(where.Namespace) + "/" +
		url.PathEscape(where.Name)).Body([]byte(`{"spec":{"shutdown":"Stop"}}`)).Do(limited).Error()
	if err == nil {
		return nil
	}
	explained := p.explain(ctx, "Workflow "+where.Namespace+"/"+where.Name, err)
	if failed, ok := errors.AsType[*outcome.Error](explained); ok && failed.Reason == outcome.Forbidden {
		failed.Hint = "The user of the kubeconfig needs a Role with patch on workflows.argoproj.io in namespace " +
			where.Namespace + "."
	}
	return explained
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
