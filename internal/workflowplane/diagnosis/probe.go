package diagnosis

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Workshop is a cluster in which things may be made, and are to be removed again.
type Workshop interface {
	Cluster

	// Create creates an object in its namespace.
	Create(ctx context.Context, object map[string]any) error

	// Delete deletes the object at a path of the API server. That there is none is no error.
	Delete(ctx context.Context, what, path string) error

	// PodLog returns what a pod's container main has printed.
	PodLog(ctx context.Context, namespace, pod string) (string, error)
}

// Run is a run that nobody has asked for, as OpenChoreo would render it. What Probe makes is named after it.
type Run struct {
	Workflow  map[string]any   // the Argo Workflow, which is not created
	Resources []map[string]any // its ExternalSecrets
}

// probeLabel marks what Probe makes, by the run.
const probeLabel = "stepwright.dev/doctor"

// Bounds of what Probe waits for. Tests shorten them.
var (
	secretPatience = time.Minute     // for External Secrets to look
	podPatience    = 3 * time.Minute // for a pod to start, and to end
	goneAfter      = 30 * time.Second
	look           = time.Second
)

// Probe makes the Secrets, the volume and the pods of a run in its namespace, and has the steps look from there whether
// they have what they need. What it makes it removes, however it ends. It tells nothing of what Of tells.
func Probe(ctx context.Context, cluster Workshop, run Run) []Finding {
	p := &probing{examination: examination{cluster: cluster}, in: cluster, run: run, missing: map[string]bool{}}
	if err := p.read(); err != nil {
		p.problem("probe", "ClusterWorkflow", err.Error(), "Apply the templates of this version.")
		return p.findings
	}
	// What has begun is removed also when the person has had enough.
	defer p.tidy(context.WithoutCancel(ctx))
	if !p.account(ctx) {
		return p.findings
	}
	p.makeSecrets(ctx)
	p.makeVolume(ctx)
	for _, name := range probed {
		if ctx.Err() != nil {
			break
		}
		p.step(ctx, name)
	}
	p.tidy(context.WithoutCancel(ctx))
	return p.findings
}

// probed are the ClusterWorkflowTemplates whose steps know the parameter check-only. The first brings the volume of the
// workspace to its node.
var probed = []string{"containerfile-build", "publish-image", "generate-workload"}

type probing struct {
	examination
	in       Workshop
	run      Run
	workflow wfv1.Workflow
	missing  map[string]bool // Secrets that did not come
	made     []thing         // what is to be removed, in the order of its making
	claim    string          // the workspace's claim; empty: there is none for pods
	stored   bool            // it is told whether the claim was bound
}

// thing is an object that was made.
type thing struct{ kind, name, path string }

// read understands the rendered workflow.
func (p *probing) read() error {
	err := runtime.DefaultUnstructuredConverter.FromUnstructured(p.run.Workflow, &p.workflow)
	if err == nil && (p.workflow.Namespace == "" || len(p.workflow.Spec.VolumeClaimTemplates) == 0) {
		err = fmt.Errorf("the workflow has no namespace, or no volume for its workspace")
	}
	return err
}

// account looks for the account of the runs' pods, and tells whether there is a namespace to look in. OpenChoreo makes
// both with the first run; without the account, pods are the namespace's default one's.
func (p *probing) account(ctx context.Context) bool {
	namespace, name := p.workflow.Namespace, p.workflow.Spec.ServiceAccountName
	var found any
	err := p.cluster.Read(ctx, "Namespace "+namespace, "/api/v1/namespaces/"+url.PathEscape(namespace), nil, &found)
	if missing(err) {
		p.findings = append(p.findings, Finding{
			"probe", Unknown, "Namespace " + namespace, "is not there: OpenChoreo makes it for the first run",
			"To look before the first run, make it: kubectl create namespace " + namespace + ".",
		})
		return false
	}
	if missing(p.cluster.Read(ctx, "ServiceAccount "+name, p.path("v1", "serviceaccounts", name), nil, &found)) {
		p.ok("probe", "ServiceAccount "+namespace+"/"+name,
			"is not there before the first run: the pods that look have the account default")
		p.workflow.Spec.ServiceAccountName = "default"
	}
	return true
}

// make creates an object, which is removed later also if it is not known whether it was created.
func (p *probing) make(ctx context.Context, what thing, object map[string]any) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.made = append(p.made, what)
	err := p.in.Create(ctx, object)
	if failed, ok := errors.AsType[*outcome.Error](err); ok && failed.Reason != outcome.ApiUnavailable {
		p.made = p.made[:len(p.made)-1] // the cluster has refused it
	}
	return err
}

// unmade is the finding of an object that could not be made; none for nil. It tells whether there was an error.
func (p *probing) unmade(check, where string, err error) bool {
	if err == nil {
		return false
	}
	mend := ""
	if failed, ok := errors.AsType[*outcome.Error](err); ok {
		mend = failed.Hint
	}
	p.findings = append(p.findings, Finding{check, Unknown, where, "could not look: " + err.Error(), mend})
	return true
}

// path is where an object of the run's namespace is.
func (p *probing) path(version, resource, name string) string {
	group := "/api/"
	if strings.Contains(version, "/") {
		group = "/apis/"
	}
	return group + version + "/namespaces/" + url.PathEscape(p.workflow.Namespace) + "/" + resource + "/" +
		url.PathEscape(name)
}

// makeSecrets makes the run's ExternalSecrets, and waits for what External Secrets says of them.
func (p *probing) makeSecrets(ctx context.Context) {
	type asked struct {
		what   thing
		about  string
		target string
	}
	var waiting []asked
	for _, object := range p.run.Resources {
		if object["kind"] != "ExternalSecret" {
			continue
		}
		mark(object, p.workflow.Name)
		name := text(object, "metadata", "name")
		what := thing{"ExternalSecret", name, p.path(secretsVersion, "externalsecrets", name)}
		about := keysOf(object)
		if err := p.make(ctx, what, object); err != nil {
			p.unmade("secret-keys", about, err)
			p.missing[name] = true
			continue
		}
		waiting = append(waiting, asked{what, about, name})
	}
	for _, a := range waiting {
		var seen secretObject
		known, ready, why := false, false, ""
		err := p.until(ctx, secretPatience, func() (bool, error) {
			seen = secretObject{} // what an answer leaves out would stay
			if err := p.cluster.Read(ctx, a.what.kind, a.what.path, nil, &seen); err != nil {
				return false, err
			}
			known, ready, why = seen.ready()
			return known, nil
		})
		switch {
		case p.unseen("secret-keys", a.about, err):
		case ready:
			p.ok("secret-keys", a.about, "is there")
			continue
		case !known:
			p.problem("secret-keys", a.about, why, "Look whether the pods of External Secrets run.")
		default:
			p.problem("secret-keys", a.about, why, "Put the key into the secret store, with the property that it "+
				"names, or name another key in settings.env.")
		}
		p.missing[a.target] = true
	}
}

// keysOf names what an ExternalSecret is made of.
func keysOf(object map[string]any) string {
	raw, err := json.Marshal(object)
	var es struct {
		Spec struct {
			SecretStoreRef struct{ Name string }
			Data           []struct {
				RemoteRef struct{ Key, Property string }
			}
			DataFrom []struct{ Extract struct{ Key string } }
		}
	}
	if err != nil || json.Unmarshal(raw, &es) != nil {
		return text(object, "metadata", "name")
	}
	var keys []string
	add := func(key string) {
		if key != "" && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	for _, d := range es.Spec.Data {
		add(d.RemoteRef.Key)
	}
	for _, d := range es.Spec.DataFrom {
		add(d.Extract.Key)
	}
	return "key " + strings.Join(keys, ", ") + " of ClusterSecretStore " + es.Spec.SecretStoreRef.Name
}

// makeVolume makes the claim of the run's workspace.
func (p *probing) makeVolume(ctx context.Context) {
	claim := p.workflow.Spec.VolumeClaimTemplates[0].DeepCopy()
	claim.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"}
	claim.Name, claim.Namespace = p.workflow.Name+"-workspace", p.workflow.Namespace
	claim.Labels = map[string]string{probeLabel: p.workflow.Name}
	claim.Status = corev1.PersistentVolumeClaimStatus{}
	object, err := unstructuredOf(claim)
	if err == nil {
		what := thing{claim.Kind, claim.Name, p.path("v1", "persistentvolumeclaims", claim.Name)}
		err = p.make(ctx, what, object)
	}
	if !p.unmade("storage-binding", "workspace of a run", err) {
		p.claim = claim.Name
	}
}

// step runs a step's pod, and takes over what it finds.
func (p *probing) step(ctx context.Context, name string) {
	var template wfv1.ClusterWorkflowTemplate
	where := "ClusterWorkflowTemplate " + name
	path := "/apis/argoproj.io/v1alpha1/clusterworkflowtemplates/" + name
	if p.unseen("probe", where, p.cluster.Read(ctx, where, path, nil, &template)) {
		return
	}
	pod, err := p.pod(name, &template)
	if err != nil {
		p.problem("probe", where, err.Error(), "Apply the templates of this version.")
		return
	}
	for _, v := range pod.Spec.Volumes {
		if v.Secret != nil && p.missing[v.Secret.SecretName] {
			p.findings = append(p.findings, Finding{
				"probe", Unknown, where, "could not look: Secret " + v.Secret.SecretName + " has not come",
				"Mend what secret-keys tells, and look again.",
			})
			return
		}
	}
	object, err := unstructuredOf(pod)
	if err == nil {
		err = p.make(ctx, thing{"Pod", pod.Name, p.path("v1", "pods", pod.Name)}, object)
	}
	if p.unmade("probe", where, err) {
		return
	}
	p.watch(ctx, where, pod.Name)
}

// watch waits for the end of a pod.
func (p *probing) watch(ctx context.Context, where, name string) {
	var pod corev1.Pod
	err := p.until(ctx, podPatience, func() (bool, error) {
		pod = corev1.Pod{} // what an answer leaves out would stay
		err := p.cluster.Read(ctx, "Pod "+name, p.path("v1", "pods", name), nil, &pod)
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		return ended || refused(&pod), err
	})
	if p.unseen("probe", where, err) {
		return
	}
	if p.claim != "" && p.storageOf(ctx, &pod) {
		p.claim = "" // for the pods after it
	}
	if pod.Status.Phase == corev1.PodPending || pod.Status.Phase == "" {
		why, mend := waits(pod)
		p.problem("probe", where, "its pod does not start: "+why, mend)
		return
	}
	log, err := p.in.PodLog(ctx, pod.Namespace, name)
	if p.unseen("probe", where, err) {
		return
	}
	if p.take(log, pod.Spec.NodeName) > 0 {
		return
	}
	what := "its pod has told nothing of what it needs"
	for _, c := range pod.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.Message != "" {
			what = t.Message
		} else if t != nil {
			what = fmt.Sprintf("its pod ended with exit code %d: %s", t.ExitCode, t.Reason)
		}
	}
	p.problem("probe", where, what, "Use templates and images of the version of this program: older ones cannot look.")
}

// refused tells that a pod will not start by itself.
func refused(pod *corev1.Pod) bool {
	for _, c := range pod.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			return w.Reason != "ErrImagePull" || strings.Contains(w.Message, "not found")
		}
	}
	return false
}

// take takes over what a step has found, and returns how many things these are.
func (p *probing) take(log, node string) (taken int) {
	for line := range strings.Lines(log) {
		var found outcome.Probe
		if !strings.HasPrefix(line, `{"check":`) || json.Unmarshal([]byte(line), &found) != nil || found.Check == "" {
			continue
		}
		taken++
		f := Finding{Check: found.Check, State: OK, Where: found.Where, What: found.Message}
		if found.Check == "node" && node != "" {
			f.Where = "Node " + node
		}
		if found.Reason != outcome.Succeeded {
			f.State, f.What, f.Mend = Problem, string(found.Reason)+": "+found.Message, found.Hint
			if found.Minor {
				f.State = Warning
			}
		}
		p.findings = append(p.findings, f)
	}
	return taken
}

// storageOf tells whether a pod has got the workspace's volume. It returns true where the others are to do without.
func (p *probing) storageOf(ctx context.Context, pod *corev1.Pod) (without bool) {
	if p.stored {
		return false
	}
	p.stored = true
	var claim corev1.PersistentVolumeClaim
	err := p.cluster.Read(ctx, "PersistentVolumeClaim "+p.claim, p.path("v1", "persistentvolumeclaims", p.claim), nil,
		&claim)
	class := "the default class"
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	where := "StorageClass " + class
	switch {
	case p.unseen("storage-binding", where, err):
	case claim.Status.Phase == corev1.ClaimBound:
		p.ok("storage-binding", where, "gives a pod its volume")
		return false
	default:
		p.problem("storage-binding", where,
			"gave a pod no volume within "+time.Since(pod.CreationTimestamp.Time).Round(time.Second).String(),
			"kubectl -n "+pod.Namespace+" describe pvc says why, and the class's provisioner. Set "+
				"workspace-storage-class in settings.env to one that binds.")
	}
	return true
}

// until looks until it is so, or the time is over, which is no error.
func (p *probing) until(ctx context.Context, limit time.Duration, is func() (bool, error)) error {
	for deadline := time.Now().Add(limit); ; {
		if so, err := is(); so || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
}

// tidy removes what was made, and tells what it could not remove.
func (p *probing) tidy(ctx context.Context) {
	made := p.made
	p.made = nil
	ctx, cancel := context.WithTimeout(ctx, 2*goneAfter)
	defer cancel()
	for _, what := range slices.Backward(made) {
		if err := p.in.Delete(ctx, what.kind+" "+what.name, what.path); err != nil {
			p.warning("probe", what.kind+" "+p.workflow.Namespace+"/"+what.name, "was made to look, and stays: "+
				err.Error(), fmt.Sprintf("kubectl -n %s delete externalsecrets,pods,persistentvolumeclaims -l %s=%s",
				p.workflow.Namespace, probeLabel, p.workflow.Name))
		}
	}
	for _, what := range made {
		// A volume goes when its pod has gone.
		_ = p.until(ctx, goneAfter, func() (bool, error) {
			var gone any
			return missing(p.cluster.Read(ctx, what.kind, what.path, nil, &gone)), nil
		})
	}
}

// mark gives an object the label by which what was made is found.
func mark(object map[string]any, run string) {
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		return
	}
	labels, ok := metadata["labels"].(map[string]any)
	if !ok {
		labels = map[string]any{}
		metadata["labels"] = labels
	}
	labels[probeLabel] = run
}

func text(object map[string]any, path ...string) string {
	var value any = object
	for _, name := range path {
		fields, _ := value.(map[string]any)
		value = fields[name]
	}
	found, _ := value.(string)
	return found
}

// unstructuredOf is an object as the API takes it.
func unstructuredOf(object any) (map[string]any, error) {
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(fields, "status")
	return fields, nil
}
