package diagnosis

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// condition is one of External Secrets' objects.
type condition struct {
	Type, Status, Reason, Message string
}

// secretObject is an object of External Secrets: a store, or an ExternalSecret.
type secretObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Status   struct {
		Conditions []condition `json:"conditions"`
	} `json:"status"`
}

func (o secretObject) ready() (known, ready bool, why string) {
	for _, c := range o.Status.Conditions {
		if c.Type == "Ready" {
			return true, c.Status == "True", strings.Trim(c.Reason+": "+c.Message, ": ")
		}
	}
	return false, false, "External Secrets has not looked at it yet"
}

const secretsVersion = "external-secrets.io/v1"

// stores looks at the secret stores of a plane of which no control plane tells which one it uses.
func (e *examination) stores(ctx context.Context) {
	if slices.Contains(e.planes, ControlPlane) {
		return
	}
	stores, err := list[secretObject](ctx, e, secretsVersion, "clustersecretstores", "")
	if missing(err) || e.unseen("secret-store", "ClusterSecretStores", err) {
		return
	}
	if len(stores) == 0 {
		e.problem("secret-store", "ClusterSecretStore", "is not there: no run gets its Secrets", makeStore)
	}
	for _, s := range stores {
		e.tellStore(s)
	}
}

const makeStore = "Make the ClusterSecretStore that the ClusterWorkflowPlane names (spec.secretStoreRef)."

func (e *examination) store(ctx context.Context, name string) {
	stores, err := list[secretObject](ctx, e, secretsVersion, "clustersecretstores", "")
	if missing(err) || e.unseen("secret-store", "ClusterSecretStore "+name, err) {
		return
	}
	for _, s := range stores {
		if s.Metadata.Name == name {
			e.tellStore(s)
			return
		}
	}
	e.problem("secret-store", "ClusterSecretStore "+name, "is not there: no run gets its Secrets", makeStore)
}

func (e *examination) tellStore(s secretObject) {
	where := "ClusterSecretStore " + s.Metadata.Name
	known, ready, why := s.ready()
	switch {
	case ready:
		e.ok("secret-store", where, "is ready")
	case !known:
		e.problem("secret-store", where, why,
			"Look whether the pods of External Secrets run, and what their logs say.")
	default:
		e.problem("secret-store", where, "is not ready: "+why, "Mend what it says of the store's provider.")
	}
}

// prefix is what OpenChoreo puts before the name of a namespace to get that of its runs.
const prefix = "workflows-"

// namespaces looks at the namespaces of runs.
func (e *examination) namespaces(ctx context.Context) {
	all, err := list[corev1.Namespace](ctx, e, "v1", "namespaces", "")
	if e.unseen("namespaces", "Namespaces", err) {
		return
	}
	needs := e.neededLevel(ctx)
	seen := false
	for _, n := range all {
		if !strings.HasPrefix(n.Name, prefix) || e.namespace != "" && n.Name != prefix+e.namespace {
			continue
		}
		seen = true
		e.podSecurity(n, needs)
		e.serviceAccount(ctx, n.Name)
		e.secrets(ctx, n.Name)
		e.pods(ctx, n.Name)
	}
	if !seen {
		e.findings = append(e.findings, Finding{
			"namespaces", Unknown, "Namespace " + prefix + e.namespace,
			"there is none yet: OpenChoreo makes it for the first run",
			"Look again after the first run: its Secrets, pods and rights are seen only then.",
		})
	}
}

// The levels of the Pod Security Standards, the strictest last.
var levels = []string{"privileged", "baseline", "restricted"}

// neededLevel is the strictest level that the pods of builds pass, by the templates in the cluster; empty where they
// are not to be seen.
func (e *examination) neededLevel(ctx context.Context) string {
	found, err := list[installedObject](ctx, e, "argoproj.io/v1alpha1", "clusterworkflowtemplates", "")
	if err != nil {
		return ""
	}
	level := ""
	for _, o := range found {
		raw, err := json.Marshal(o.Spec)
		var spec wfv1.WorkflowSpec
		if err != nil || !e.wants("ClusterWorkflowTemplate", o.Metadata.Name) || json.Unmarshal(raw, &spec) != nil {
			continue
		}
		for _, template := range spec.Templates {
			if template.Container != nil {
				level = laxer(level, levelOf(template.Container.SecurityContext))
			}
		}
	}
	return level
}

func laxer(a, b string) string {
	if a == "" || slices.Index(levels, b) < slices.Index(levels, a) {
		return b
	}
	return a
}

// levelOf is the strictest level that a container passes, as far as our templates use what levels forbid.
func levelOf(s *corev1.SecurityContext) string {
	switch {
	case s == nil:
		return "baseline"
	case s.Privileged != nil && *s.Privileged,
		s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount,
		s.SeccompProfile != nil && s.SeccompProfile.Type == corev1.SeccompProfileTypeUnconfined,
		s.AppArmorProfile != nil && s.AppArmorProfile.Type == corev1.AppArmorProfileTypeUnconfined:
		return "privileged"
	case s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation,
		s.Capabilities != nil && len(s.Capabilities.Add) > 0:
		return "baseline"
	}
	return "restricted"
}

func (e *examination) podSecurity(n corev1.Namespace, passes string) {
	enforced := n.Labels["pod-security.kubernetes.io/enforce"]
	where := "Namespace " + n.Name
	switch {
	case passes == "":
	case enforced == "" || slices.Index(levels, enforced) <= slices.Index(levels, passes):
		e.ok("pod-security", where, "lets the builds' pods in, which pass the level %s", passes)
	default:
		e.problem("pod-security", where,
			fmt.Sprintf("enforces %s, and the builds' pods pass only %s", enforced, passes),
			"Use the component seccomp-profile (baseline) or buildkit-daemon (restricted), or set the label "+
				"pod-security.kubernetes.io/enforce to "+passes+".")
	}
}

// serviceAccount asks whether Argo's container in each pod may report: a run whose may not hangs.
func (e *examination) serviceAccount(ctx context.Context, namespace string) {
	const account = "workflow-sa"
	where := "ServiceAccount " + namespace + "/" + account
	accounts, err := list[corev1.ServiceAccount](ctx, e, "v1", "serviceaccounts", namespace)
	if e.unseen("service-account", where, err) {
		return
	}
	if !slices.ContainsFunc(accounts, func(a corev1.ServiceAccount) bool { return a.Name == account }) {
		e.warning("service-account", where, "is not there; OpenChoreo makes it again for each run",
			"If runs hang as pending, look into the log of OpenChoreo's controller.")
		return
	}
	for _, verb := range []string{"create", "patch"} {
		may, err := e.cluster.Allowed(ctx, "system:serviceaccount:"+namespace+":"+account, Access{
			Namespace: namespace, Verb: verb, Group: "argoproj.io", Resource: "workflowtaskresults",
		})
		if e.unseen("service-account", where, err) {
			return
		}
		if !may {
			e.problem("service-account", where,
				"may not "+verb+" workflowtaskresults.argoproj.io, so results of steps are lost",
				"Bind it to a Role with create and patch on workflowtaskresults; OpenChoreo's controller does so for "+
					"each run, if its agent may.")
			return
		}
	}
	e.ok("service-account", where, "may report results of steps")
}

// secrets looks for Secrets that a run waits for in vain.
func (e *examination) secrets(ctx context.Context, namespace string) {
	all, err := list[secretObject](ctx, e, secretsVersion, "externalsecrets", namespace)
	if missing(err) || e.unseen("secrets", "ExternalSecrets of "+namespace, err) {
		return
	}
	waiting := 0
	for _, s := range all {
		known, ready, why := s.ready()
		if ready {
			continue
		}
		waiting++
		mend := "Put the key into the secret store, with the property that it names, or name another key in " +
			"settings.env."
		if !known {
			mend = "Look whether the pods of External Secrets run."
		}
		e.problem("secrets", "ExternalSecret "+namespace+"/"+s.Metadata.Name, why, mend)
	}
	if waiting == 0 {
		e.ok("secrets", "ExternalSecrets of "+namespace, "%d, all with their Secret", len(all))
	}
}

// soon is how long a pod may wait without being worth a word.
const soon = time.Minute

// pods looks for pods that do not start.
func (e *examination) pods(ctx context.Context, namespace string) {
	all, err := list[corev1.Pod](ctx, e, "v1", "pods", namespace)
	if e.unseen("pods", "Pods of "+namespace, err) {
		return
	}
	waiting := 0
	for _, pod := range all {
		if pod.Status.Phase != corev1.PodPending || time.Since(pod.CreationTimestamp.Time) < soon {
			continue
		}
		waiting++
		why, mend := waits(pod)
		e.problem("pods", "Pod "+namespace+"/"+pod.Name,
			fmt.Sprintf("has waited for %s: %s", time.Since(pod.CreationTimestamp.Time).Round(time.Second), why), mend)
	}
	if waiting == 0 {
		e.ok("pods", "Pods of "+namespace, "none waits")
	}
}

// waits says why a pod does not start.
func waits(pod corev1.Pod) (why, mend string) {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := status.State.Waiting
		if w == nil || w.Reason == "PodInitializing" || w.Reason == "ContainerCreating" {
			continue
		}
		why = strings.Trim(status.Name+": "+w.Reason+": "+w.Message, ": ")
		if strings.Contains(w.Reason, "Image") {
			return why, "Check the image's name in the overlay, and that nodes may pull it."
		}
		return why, "kubectl -n " + pod.Namespace + " describe pod " + pod.Name + " says more."
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Reason + ": " + c.Message, "Add nodes or room, or lower the requests; a volume that binds to no " +
				"node is seen in kubectl -n " + pod.Namespace + " get pvc."
		}
	}
	return "a volume is not there yet, such as a Secret or a claim",
		"kubectl -n " + pod.Namespace + " describe pod " + pod.Name + " names it. Of an ExternalSecret that makes no " +
			"Secret the check secrets tells."
}

// storage looks for the class that workspaces get their volumes from.
func (e *examination) storage(ctx context.Context) {
	classes, err := list[storagev1.StorageClass](ctx, e, "storage.k8s.io/v1", "storageclasses", "")
	if e.unseen("storage", "StorageClasses", err) {
		return
	}
	for _, c := range classes {
		if c.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" {
			continue
		}
		where := "StorageClass " + c.Name
		if c.VolumeBindingMode == nil || *c.VolumeBindingMode == storagev1.VolumeBindingImmediate {
			e.warning("storage", where, "is the default, and binds volumes before it is known where the pods run",
				"Where volumes belong to nodes or zones, use a class with volumeBindingMode WaitForFirstConsumer, by "+
					"workspace-storage-class in settings.env.")
			return
		}
		e.ok("storage", where, "is the default, and binds volumes where the pods run")
		return
	}
	e.warning("storage", "StorageClass", "no class is the default: workspaces of runs stay pending",
		"Mark one as the default, or set workspace-storage-class in settings.env.")
}

var kernel = regexp.MustCompile(`^(\d+)\.(\d+)`)

// nodes looks whether builds can run on a node at all.
func (e *examination) nodes(ctx context.Context) {
	all, err := list[corev1.Node](ctx, e, "v1", "nodes", "")
	if e.unseen("nodes", "Nodes", err) {
		return
	}
	ready := 0
	for _, n := range all {
		info := n.Status.NodeInfo
		where := "Node " + n.Name
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			e.warning("nodes", where, "is not ready", "kubectl describe node "+n.Name+" says why.")
			continue
		}
		if info.OperatingSystem != "linux" || info.Architecture != "amd64" && info.Architecture != "arm64" {
			e.warning("nodes", where,
				"is of "+info.OperatingSystem+"/"+info.Architecture+", for which there are no images of steps",
				"Keep runs from it by a taint or a node selector.")
			continue
		}
		ready++
		major, minor := 0, 0
		if found := kernel.FindStringSubmatch(info.KernelVersion); found != nil {
			major, _ = strconv.Atoi(found[1])
			minor, _ = strconv.Atoi(found[2])
		}
		if major < 5 || major == 5 && minor < 11 {
			e.warning("nodes", where,
				"has Linux "+info.KernelVersion+", on which a build copies layers, since overlays are root's",
				"Upgrade to Linux 5.11 or later for Dockerfile builds, or use the component buildkit-daemon elsewhere.")
			continue
		}
		e.ok("nodes", where, "is ready: Linux %s, %s, %s", info.KernelVersion, info.Architecture,
			info.ContainerRuntimeVersion)
	}
	if ready == 0 {
		e.problem("nodes", "Nodes", "none is ready that steps have images for",
			"Add a Linux node of amd64 or arm64.")
	}
}
