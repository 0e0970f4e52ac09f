package templates_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	gocmp "github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
)

// overlay writes a kustomization of both planes with these components and returns its folder.
func overlay(t *testing.T, components ...string) string {
	t.Helper()
	return upon(t, []string{"workflow-plane", "control-plane"}, components...)
}

// upon writes a kustomization of these folders with these components and returns its folder.
func upon(t *testing.T, folders []string, components ...string) string {
	t.Helper()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	up, err := filepath.Rel(dir, root)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("resources:\n")
	for _, folder := range folders {
		fmt.Fprintf(&b, "  - %s/%s\n", up, folder)
	}
	b.WriteString("components:\n")
	for _, c := range components {
		fmt.Fprintf(&b, "  - %s/components/%s\n", up, c)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// customized is an installation of both planes by a kustomization.
type customized struct {
	name, dir string
	rules     rules
	kinds     []string // besides templates and ClusterWorkflows
}

// overlays lists the overlays of this folder, and one with each component.
func overlays(t *testing.T) []customized {
	t.Helper()
	const pull, push = "registry-pull-secret", "registry-push-secret"
	anonymous := func(secrets ...string) rules { return rules{buildSecurity: userNamespace, anonymous: secrets} }
	return []customized{
		{"example", "overlays/example", anonymous(pull), nil},
		{"local", "overlays/local", anonymous(pull, push), nil},
		{"anonymous-pull", overlay(t, "anonymous-pull"), anonymous(pull), nil},
		{"anonymous-push", overlay(t, "anonymous-push"), anonymous(push), nil},
		{"client-assertion", overlay(t, "client-assertion"), anonymous("oauth-client-secret"), nil},
		{"signing-key", overlay(t, "signing-key"), byDefault, nil},
		{"signing-keyless", overlay(t, "signing-keyless"), byDefault, nil},
		{"scan-gate", overlay(t, "scan-gate"), byDefault, nil},
		{"annotate-failures", overlay(t, "annotate-failures"), byDefault, nil},
		{"builder-resources", overlay(t, "builder-resources"), byDefault, nil},
		{"commit-status", overlay(t, "commit-status"), byDefault, nil},
		{"observability", overlay(t, "observability"), byDefault, nil},
		{"seccomp-profile", overlay(t, "seccomp-profile"), rules{buildSecurity: profiled},
			[]string{"Namespace", "ConfigMap", "DaemonSet"}},
		{"user-namespaces", overlay(t, "user-namespaces"),
			rules{buildSecurity: unmasked(userNamespace), hostUsers: true}, nil},
		{"registry-cache", overlay(t, "registry-cache"), byDefault,
			[]string{"Namespace", "Service", "StatefulSet", "NetworkPolicy"}},
		{"plain-image-names", overlay(t, "plain-image-names"), byDefault, nil},
		{"buildkit-daemon", overlay(t, "buildkit-daemon"), rules{buildSecurity: restricted},
			[]string{"Namespace", "ConfigMap", "ConfigMap", "Service", "StatefulSet", "NetworkPolicy",
				"PodDisruptionBudget"}},
		{"buildkit-daemon-per-namespace", overlay(t, "buildkit-daemon-per-namespace"), rules{buildSecurity: restricted},
			[]string{"Namespace"}},
		{
			"all that go together",
			overlay(t, "client-assertion", "signing-key", "scan-gate", "annotate-failures", "commit-status",
				"observability", "builder-resources", "anonymous-pull", "anonymous-push", "registry-cache",
				"seccomp-profile",
				"user-namespaces", "plain-image-names"),
			rules{buildSecurity: unmasked(profiled), hostUsers: true,
				anonymous: []string{pull, push, "oauth-client-secret"}},
			[]string{"Namespace", "Namespace", "ConfigMap", "Service", "StatefulSet", "DaemonSet", "NetworkPolicy"},
		},
	}
}

func TestOverlaysAndComponents(t *testing.T) {
	t.Parallel()
	for _, test := range overlays(t) {
		t.Run(test.name, func(t *testing.T) {
			objects := build(t, test.dir)
			installed := installed(t)
			var kinds []string
			for _, object := range objects {
				f := &faults{file: test.name + ": " + at(object, "metadata", "name").(string)}
				switch kind := at(object, "kind").(string); kind {
				case "ClusterWorkflowTemplate":
					f.all = lintTemplate(f.file, object, test.rules)
				case "ClusterWorkflow":
					f.all = lintClusterWorkflow(t, f.file, object, installed)
				default:
					kinds = append(kinds, kind)
					lintKubernetes(f, object)
				}
				if at(object, "metadata", "labels", "stepwright.dev/plane") == nil {
					f.add("metadata.labels", "stepwright.dev/plane is absent")
				}
				for _, fault := range f.all {
					t.Error(fault)
				}
			}
			slices.Sort(kinds)
			want := slices.Sorted(slices.Values(test.kinds))
			if !slices.Equal(kinds, want) {
				t.Errorf("there are %v besides, want %v", kinds, want)
			}
		})
	}
}

// converted is an object of Kubernetes' own as its type.
func converted[T any](t *testing.T, object map[string]any) T {
	t.Helper()
	v, err := convert[T](object)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A RUN cannot signal a daemon that many tenants use: it has a PID namespace and a /proc of its own, which takes a user
// namespace. A daemon that cannot have them is one namespace's.
func TestDaemonsKeepTenantsApart(t *testing.T) {
	t.Parallel()
	const flag = "--oci-worker-no-process-sandbox"
	shared := ofKind(build(t, overlay(t, "buildkit-daemon")), "StatefulSet")[0]
	pod := converted[appsv1.StatefulSet](t, shared).Spec.Template.Spec
	context := pod.Containers[0].SecurityContext
	if pod.HostUsers == nil || *pod.HostUsers || context.ProcMount == nil ||
		*context.ProcMount != corev1.UnmaskedProcMount || slices.Contains(pod.Containers[0].Args, flag) {
		t.Errorf("the shared daemon has no process sandbox: %+v", pod)
	}

	dir := t.TempDir()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	up, err := filepath.Rel(dir, root)
	if err != nil {
		t.Fatal(err)
	}
	// What the base's comment tells an overlay to have.
	var own strings.Builder
	for line := range strings.Lines(string(readFile(t, "buildkit-daemon-of-namespace/kustomization.yaml"))) {
		if code, ok := strings.CutPrefix(line, "#   "); ok {
			own.WriteString(strings.ReplaceAll(code, "<path>/templates", up))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(own.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	objects := build(t, dir)
	set := converted[appsv1.StatefulSet](t, ofKind(objects, "StatefulSet")[0])
	if !slices.Contains(set.Spec.Template.Spec.Containers[0].Args, flag) || set.Spec.Template.Spec.HostUsers != nil ||
		set.Spec.Template.Spec.Containers[0].SecurityContext.ProcMount != nil {
		t.Errorf("the daemon of a namespace: %+v", set.Spec.Template.Spec)
	}
	policy := converted[networkingv1.NetworkPolicy](t, ofKind(objects, "NetworkPolicy")[0])
	if from := policy.Spec.Ingress[0].From[0].NamespaceSelector; from == nil ||
		from.MatchLabels["kubernetes.io/metadata.name"] != "workflows-acme" ||
		len(policy.Spec.Ingress[0].From) != 1 {
		t.Errorf("others may speak to the daemon of a namespace: %+v", policy.Spec.Ingress)
	}
	for _, rule := range policy.Spec.Ingress[1:] {
		if len(rule.Ports) != 1 || rule.Ports[0].Port.IntValue() == 1234 {
			t.Errorf("others may speak to the daemon of a namespace: %+v", rule)
		}
	}
	service := converted[corev1.Service](t, ofKind(objects, "Service")[0])
	for key, value := range service.Spec.Selector {
		if set.Spec.Template.Labels[key] != value || policy.Spec.PodSelector.MatchLabels[key] != value {
			t.Errorf("%s=%s selects the service's pods only", key, value)
		}
	}
	if service.Spec.Selector["stepwright.dev/namespace"] != "acme" || service.Name != "buildkitd-acme" {
		t.Errorf("the service %s selects %v", service.Name, service.Spec.Selector)
	}
	address := fmt.Sprintf("tcp://buildkitd-{{workflow.parameters.namespace-name}}.%s.svc:1234", service.Namespace)
	for _, object := range ofKind(build(t, overlay(t, "buildkit-daemon-per-namespace")), "ClusterWorkflowTemplate") {
		if at(object, "metadata", "name") == "containerfile-build" && !strings.Contains(fmt.Sprint(object), address) {
			t.Error("builds do not go to the daemon of their namespace")
		}
	}
}

// Builds find each of the daemons by the name of one Service, and a daemon that must go lets its builds end.
func TestPoolOfDaemons(t *testing.T) {
	t.Parallel()
	root, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	up, err := filepath.Rel(dir, root)
	if err != nil {
		t.Fatal(err)
	}
	ofNamespace := fmt.Sprintf("resources: [%s/buildkit-daemon-of-namespace]\nnameSuffix: -acme\nlabels:\n"+
		"  - {pairs: {stepwright.dev/namespace: acme}, includeSelectors: true, includeTemplates: true}\n", up)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(ofNamespace), 0o644); err != nil {
		t.Fatal(err)
	}
	deadline := 0
	for _, object := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		if at(object, "metadata", "name") != "containerfile-build" {
			continue
		}
		for _, p := range at(object, "spec", "templates", 0, "inputs", "parameters").([]any) {
			if at(p, "name") == "active-deadline-seconds" {
				if deadline, err = strconv.Atoi(at(p, "default").(string)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, test := range []struct {
		name, dir string
		replicas  int32
	}{
		{"of all namespaces", overlay(t, "buildkit-daemon"), 2},
		{"of one namespace", dir, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects := build(t, test.dir)
			set := converted[appsv1.StatefulSet](t, ofKind(objects, "StatefulSet")[0]).Spec
			service := converted[corev1.Service](t, ofKind(objects, "Service")[0])
			budget := converted[policyv1.PodDisruptionBudget](t, ofKind(objects, "PodDisruptionBudget")[0]).Spec
			pod := set.Template.Spec
			if set.Replicas == nil || *set.Replicas != test.replicas {
				t.Errorf("replicas: %v", set.Replicas)
			}
			// A pod has a name in DNS by the headless Service of its StatefulSet, and SRV records by the port's name.
			if service.Spec.ClusterIP != corev1.ClusterIPNone || set.ServiceName != service.Name ||
				service.Spec.PublishNotReadyAddresses || service.Spec.Ports[0].Name != "buildkit" {
				t.Errorf("serviceName %s: %s %+v", set.ServiceName, service.Name, service.Spec)
			}
			if grace := pod.TerminationGracePeriodSeconds; grace == nil || deadline == 0 || *grace < int64(deadline) {
				t.Errorf("a daemon is killed after %v s, and a build after %d s", grace, deadline)
			}
			if c := pod.Containers[0]; c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.LivenessProbe != nil ||
				!slices.Equal(c.ReadinessProbe.Exec.Command, []string{"buildctl", "debug", "workers"}) {
				t.Errorf("%+v %+v %+v", c.Lifecycle, c.ReadinessProbe, c.LivenessProbe)
			}
			if budget.MaxUnavailable == nil || budget.MaxUnavailable.IntValue() != 1 || budget.MinAvailable != nil ||
				!maps.Equal(budget.Selector.MatchLabels, set.Selector.MatchLabels) {
				t.Errorf("%+v", budget)
			}
			spread := pod.TopologySpreadConstraints
			if len(spread) != 1 || !maps.Equal(spread[0].LabelSelector.MatchLabels, set.Selector.MatchLabels) {
				t.Errorf("%+v", spread)
			}
			checkMetrics(t, objects)
		})
	}
}

// checkMetrics wants a daemon's debug address to be a socket that only one other container has, which serves the
// metrics to namespaces with a label. RUNs share the pod's network, and BuildKit asks nobody there who they are.
func checkMetrics(t *testing.T, objects []map[string]any) {
	t.Helper()
	for _, object := range ofKind(objects, "ConfigMap") {
		if text := fmt.Sprint(object); strings.Contains(text, "debugAddress") {
			t.Error("RUNs reach the debug port")
		}
	}
	pod := converted[appsv1.StatefulSet](t, ofKind(objects, "StatefulSet")[0]).Spec.Template.Spec
	daemon, metrics := pod.Containers[0], pod.Containers[1]
	socket := ""
	for _, arg := range daemon.Args {
		if at, ok := strings.CutPrefix(arg, "--debugaddr="); ok {
			if socket, ok = strings.CutPrefix(at, "unix://"); !ok {
				t.Errorf("RUNs reach the debug address %s", at)
			}
		}
	}
	if !slices.Contains(metrics.Args, "--socket="+socket) || metrics.SecurityContext.Capabilities.Drop[0] != "ALL" ||
		len(metrics.VolumeMounts) != 1 || !metrics.VolumeMounts[0].ReadOnly || len(pod.Containers) != 2 ||
		metrics.VolumeMounts[0].MountPath != path.Dir(socket) ||
		metrics.VolumeMounts[0].Name != daemon.VolumeMounts[len(daemon.VolumeMounts)-1].Name {
		t.Errorf("%q: %+v", socket, metrics)
	}
	rules := converted[networkingv1.NetworkPolicy](t, ofKind(objects, "NetworkPolicy")[0]).Spec.Ingress
	last := rules[len(rules)-1]
	if len(last.From) != 1 || last.From[0].NamespaceSelector.MatchLabels["stepwright.dev/monitoring"] != "true" ||
		len(last.Ports) != 1 || last.Ports[0].Port.IntValue() != int(metrics.Ports[0].ContainerPort) {
		t.Errorf("%+v", last)
	}
	for _, rule := range rules[:len(rules)-1] {
		if len(rule.Ports) != 1 || rule.Ports[0].Port.IntValue() != 1234 {
			t.Errorf("others reach the metrics: %+v", rule)
		}
	}
}

// Components change developers' runs, too.
func TestComponentsReachTheRuns(t *testing.T) {
	t.Parallel()
	resources := func(dir string) map[string]map[string]any {
		_, all, err := renderRun(ofKind(build(t, dir), "ClusterWorkflow")[0], ordinary())
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := resources(overlay(t, "anonymous-pull", "anonymous-push")); all["registry-pull-secret"] != nil ||
		all["registry-push-secret"] != nil || all["oauth-client-secret"] == nil {
		t.Errorf("anonymous registries: %v", all)
	}
	if all := resources(overlay(t, "client-assertion")); all["oauth-client-secret"] != nil ||
		all["registry-push-secret"] == nil {
		t.Errorf("client-assertion: %v", all)
	}
	if all := resources(overlay(t, "signing-key")); all["signing-key"] == nil {
		t.Errorf("signing-key: %v", all)
	}
	if all := resources(overlay(t)); all["signing-key"] != nil {
		t.Errorf("no signing-key: %v", all)
	}
	if all := resources(overlay(t, "buildkit-daemon")); all["buildkit-client"] == nil {
		t.Errorf("buildkit-daemon: %v", all)
	}
	workflow, _, err := renderRun(ofKind(build(t, "overlays/example"), "ClusterWorkflow")[0], ordinary())
	if err != nil {
		t.Fatal(err)
	}
	claim := at(workflow, "spec", "volumeClaimTemplates", 0, "spec")
	if class, size := at(claim, "storageClassName"), at(claim, "resources", "requests", "storage"); class != "fast" ||
		size != "20Gi" {
		t.Errorf("the example's workspace is %v of class %v", size, class)
	}
}

// The message of a step that a Secret has not come names the key that the run's ExternalSecret asks for.
func TestKeysOfSecrets(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{
		"by default": overlay(t), "the example": "overlays/example",
		"components": overlay(t, "signing-key", "buildkit-daemon", "scan-gate"),
	} {
		for _, cluster := range ofKind(build(t, dir), "ClusterWorkflow") {
			workflow, resources, err := renderRun(cluster, ordinary())
			if err != nil {
				t.Fatal(err)
			}
			var told []struct{ Secret, Key string }
			err = json.Unmarshal([]byte(arguments(t, workflow)["secret-keys"]), &told)
			if err != nil || len(told) < 3 {
				t.Fatalf("%s: %v %v", name, told, err)
			}
			known := map[string]string{}
			for _, s := range told {
				known[s.Secret] = s.Key
			}
			for id, secret := range resources {
				// A Git secret is of a SecretReference, which its own message names.
				if data, ok := at(secret, "spec", "data").([]any); ok && id != "git-secret" {
					if key := at(data[0], "remoteRef", "key"); known[id] != key {
						t.Errorf("%s: %s: %s is made of %v, and a step would say %q", name,
							at(cluster, "metadata", "name"), id, key, known[id])
					}
				}
			}
		}
	}
}

// The platform says where pods run, how long a run may take, which one is first, and when its pods are deleted; without
// its word nothing is said, as before.
func TestPlacementOfRuns(t *testing.T) {
	t.Parallel()
	placed := func(t *testing.T, cluster map[string]any) map[string]any {
		t.Helper()
		workflow, _, err := renderRun(cluster, ordinary())
		if err != nil {
			t.Fatal(err)
		}
		spec := at(workflow, "spec").(map[string]any)
		all := map[string]any{}
		for _, field := range []string{
			"activeDeadlineSeconds", "nodeSelector", "tolerations", "podPriorityClassName", "priority", "podGC",
			"synchronization",
		} {
			if value, said := spec[field]; said {
				all[field] = value
			}
		}
		return all
	}
	for _, cluster := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		if all := placed(t, cluster); len(all) > 0 {
			t.Errorf("%v: %v", at(cluster, "metadata", "name"), all)
		}
	}
	of := ofKind(build(t, upon(t, []string{"overlays/example"}, "control-plane-settings")), "ClusterWorkflow")
	for _, cluster := range append(ofKind(build(t, "overlays/example"), "ClusterWorkflow"), of...) {
		if diff := gocmp.Diff(map[string]any{
			"activeDeadlineSeconds": int64(14400), "nodeSelector": map[string]any{"pool": "builds"},
			"tolerations": []any{
				map[string]any{"key": "builds", "operator": "Exists", "effect": "NoSchedule"},
			},
			"podPriorityClassName": "builds", "priority": int64(10),
			"podGC": map[string]any{"strategy": "OnWorkflowSuccess"},
			"synchronization": map[string]any{"semaphores": []any{
				map[string]any{
					"namespace":       "builds",
					"configMapKeyRef": map[string]any{"name": "limits", "key": "platform"},
				},
				map[string]any{"configMapKeyRef": map[string]any{"name": "limits", "key": "own"}},
			}},
		}, placed(t, cluster)); diff != "" {
			t.Errorf("%v (-want +got)\n%s", at(cluster, "metadata", "name"), diff)
		}
		elsewhere := ordinary()
		elsewhere.namespace = "globex"
		workflow, _, err := renderRun(cluster, elsewhere)
		if err != nil {
			t.Fatal(err)
		}
		if priority, said := at(workflow, "spec").(map[string]any)["priority"]; said {
			t.Errorf("%v: a run of another namespace has priority %v", at(cluster, "metadata", "name"), priority)
		}
	}
}

// However a run ends, Argo releases its workspace, and OpenChoreo deletes what is left of it after a day.
func TestEndsOfRuns(t *testing.T) {
	t.Parallel()
	for _, cluster := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		name := at(cluster, "metadata", "name")
		workflow, _, err := renderRun(cluster, ordinary())
		if err != nil {
			t.Fatal(err)
		}
		if got := at(workflow, "spec", "volumeClaimGC", "strategy"); got != "OnWorkflowCompletion" {
			t.Errorf("%v: claims are released %v", name, got)
		}
		if got := at(cluster, "spec", "ttlAfterCompletion"); got != "1d" {
			t.Errorf("%v: runs are kept for %v", name, got)
		}
	}
}

// Each builder has what its own settings say with the component builder-resources, and what is common without.
func TestResourcesOfBuilders(t *testing.T) {
	t.Parallel()
	resources := func(t *testing.T, dir string) map[string]string {
		t.Helper()
		all := map[string]string{}
		for _, object := range ofKind(build(t, dir), "ClusterWorkflowTemplate") {
			name, template := at(object, "metadata", "name").(string), at(object, "spec", "templates", 0)
			if at(template, "name") != "build-image" {
				continue
			}
			found := at(template, "container", "resources")
			inits, _ := at(template, "initContainers").([]any)
			for _, c := range inits {
				if at(c, "name") == "build" {
					found = at(c, "resources")
				}
			}
			r := converted[corev1.ResourceRequirements](t, found.(map[string]any))
			all[name] = fmt.Sprintf("%s-%s cpu, %s-%s memory, %s disk", r.Requests.Cpu(), r.Limits.Cpu(),
				r.Requests.Memory(), r.Limits.Memory(), r.Limits.StorageEphemeral())
		}
		return all
	}
	for _, test := range []struct{ name, dir, dockerfile, others string }{
		{"by default", "workflow-plane", "500m-4 cpu, 512Mi-4Gi memory, 24Gi disk", ""},
		{"of all", "overlays/example", "1500m-8 cpu, 1536Mi-16Gi memory, 64Gi disk", ""},
		{"of each by default", overlay(t, "builder-resources"), "500m-4 cpu, 512Mi-4Gi memory, 24Gi disk", ""},
		{"of each", upon(t, []string{"overlays/example"}, "builder-resources"),
			"1750m-16 cpu, 3Gi-32Gi memory, 96Gi disk", "1250m-6 cpu, 2Gi-12Gi memory, 48Gi disk"},
	} {
		for name, got := range resources(t, test.dir) {
			want := test.dockerfile
			if name != "containerfile-build" && test.others != "" {
				want = test.others
			}
			if got != want {
				t.Errorf("%s: %s has %s, want %s", test.name, name, got, want)
			}
		}
	}
}

// No two components have one image, unless a platform engineer keeps the names that can be confused.
func TestNamesOfImages(t *testing.T) {
	t.Parallel()
	components := [][3]string{
		{"acme", "shop", "cart"}, {"acme", "shop-eu", "cart"}, {"acme", "shop", "eu-cart"}, {"acme-shop", "eu", "cart"},
		{"a", "b.c", "d"}, {"a", "b", "c.d"},
	}
	names := func(cluster map[string]any) map[string]bool {
		all := map[string]bool{}
		for _, c := range components {
			r := ordinary()
			r.namespace = c[0]
			r.labels = map[string]string{"openchoreo.dev/project": c[1], "openchoreo.dev/component": c[2]}
			workflow, _, err := renderRun(cluster, r)
			if err != nil {
				t.Fatal(err)
			}
			all[arguments(t, workflow)["image-name"]] = true
		}
		return all
	}
	for _, cluster := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		if all := names(cluster); len(all) != len(components) || !all["acme_shop-eu_cart"] {
			t.Errorf("%v: the images are %v", at(cluster, "metadata", "name"), all)
		}
	}
	for _, cluster := range ofKind(build(t, overlay(t, "plain-image-names")), "ClusterWorkflow") {
		if all := names(cluster); len(all) != 4 || !all["acme-shop-eu-cart"] {
			t.Errorf("plain-image-names: %v: the images are %v", at(cluster, "metadata", "name"), all)
		}
	}
}

// A namespace that has credentials of its own gets no others.
func TestRegistrySecretsOfNamespaces(t *testing.T) {
	t.Parallel()
	tests := []struct {
		dir, namespace, push, pull string
	}{
		{"control-plane", "acme", "registry-push-secret", "registry-pull-secret"},
		{"overlays/example", "acme", "ci/registry-push-acme", "ci/registry-pull-acme"},
		{"overlays/example", "globex", "ci/registry-push-globex", "ci/registry-pull-globex"},
		{"overlays/example", "acme-eu", "ci/registry-push", "ci/registry-pull"},
		{"overlays/example", "acm", "ci/registry-push", "ci/registry-pull"},
	}
	for _, test := range tests {
		for _, cluster := range ofKind(build(t, test.dir), "ClusterWorkflow") {
			r := ordinary()
			r.namespace = test.namespace
			_, resources, err := renderRun(cluster, r)
			if err != nil {
				t.Fatal(err)
			}
			for id, want := range map[string]string{
				"registry-push-secret": test.push, "registry-pull-secret": test.pull,
			} {
				if resources[id] == nil { // the example's registries need no credentials to pull
					continue
				}
				if got := at(resources[id], "spec", "data", 0, "remoteRef", "key"); got != want {
					t.Errorf("%s: %s of %s is %v, want %s", test.dir, id, test.namespace, got, want)
				}
			}
		}
	}
}

// The example changes every setting, and every setting reaches an installed object.
func TestTheExampleChangesEverySetting(t *testing.T) {
	t.Parallel()
	settings := func(path string) map[string]string {
		all := map[string]string{}
		for line := range strings.Lines(string(readFile(t, path))) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
				all[k] = v
			}
		}
		return all
	}
	example := settings("overlays/example/settings.env")
	// Those of each builder are for a component that takes the place of other settings.
	of := upon(t, []string{"overlays/example"}, "builder-resources")
	raw, err := yaml.Marshal(append(build(t, "overlays/example"), build(t, of)...))
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for _, plane := range []string{"workflow-plane", "control-plane"} {
		for k, v := range settings(plane + "/settings.env") {
			known++
			switch changed, ok := example[k]; {
			case !ok || changed == v:
				t.Errorf("the example does not change %s", k)
			case !strings.Contains(string(raw), changed):
				t.Errorf("%s=%s reaches nothing", k, changed)
			}
		}
	}
	if known != len(example) {
		t.Errorf("the example has %d settings, the planes %d", len(example), known)
	}
}

// Templates that share a parameter have it from one setting.
func TestSettingsReachAllTemplates(t *testing.T) {
	t.Parallel()
	values := map[string]map[string]string{}
	for _, object := range ofKind(build(t, "overlays/example"), "ClusterWorkflowTemplate") {
		parameters, _ := at(object, "spec", "templates", 0, "inputs", "parameters").([]any)
		for _, p := range parameters {
			name := at(p, "name").(string)
			if !slices.Contains([]string{
				"registry", "registry-mirrors", "insecure-registries", "ca-bundle", "log-format", "cache",
			}, name) {
				continue
			}
			if values[name] == nil {
				values[name] = map[string]string{}
			}
			values[name][at(p, "default").(string)] = at(object, "metadata", "name").(string)
		}
	}
	for name, different := range values {
		if len(different) != 1 {
			t.Errorf("%s has the values %v", name, different)
		}
	}
}

// lintKubernetes checks an object of Kubernetes' own by its type, and its pods by the rules for every pod here.
func lintKubernetes(f *faults, object map[string]any) {
	var pod *corev1.PodSpec
	var err error
	switch object["kind"] {
	case "DaemonSet":
		var set appsv1.DaemonSet
		set, err = convert[appsv1.DaemonSet](object)
		pod = &set.Spec.Template.Spec
	case "StatefulSet":
		var set appsv1.StatefulSet
		set, err = convert[appsv1.StatefulSet](object)
		pod = &set.Spec.Template.Spec
	case "Service":
		_, err = convert[corev1.Service](object)
	case "ConfigMap":
		_, err = convert[corev1.ConfigMap](object)
	case "PodDisruptionBudget":
		_, err = convert[policyv1.PodDisruptionBudget](object)
	case "NetworkPolicy":
		_, err = convert[networkingv1.NetworkPolicy](object)
	case "Namespace":
		if at(object, "metadata", "labels", "pod-security.kubernetes.io/enforce") == nil {
			f.add("metadata.labels", "pod-security.kubernetes.io/enforce is absent")
		}
	default:
		err = fmt.Errorf("%v is not expected", object["kind"])
	}
	if err != nil {
		f.add("spec", "%v", err)
	}
	if pod == nil {
		return
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		f.add("spec.template.spec.automountServiceAccountToken", "must be false")
	}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		field := "spec.template.spec.containers[" + c.Name + "]"
		if fault := pinned(c.Image); fault != "" {
			f.add(field+".image", "%s %s", c.Image, fault)
		}
		if c.SecurityContext == nil || c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
			f.add(field+".securityContext", "must be there and not privileged")
		}
		for _, name := range []string{"cpu", "memory", "ephemeral-storage"} {
			if !names(c.Resources.Limits)[name] {
				f.add(field+".resources.limits."+name, "is absent")
			}
		}
	}
}

// What images are signed with is where they are pushed from, and nowhere else: no pod that runs a developer's code has
// the key, or a token for the identity.
func TestSigningKeyIsWithPublishImageAlone(t *testing.T) {
	t.Parallel()
	mounts := func(dir, what string) (names []string) {
		for _, template := range ofKind(build(t, dir), "ClusterWorkflowTemplate") {
			text, err := json.Marshal(at(template, "spec"))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), what) {
				names = append(names, at(template, "metadata", "name").(string))
			}
		}
		return names
	}
	for component, what := range map[string]string{
		"signing-key": "signing-key", "signing-keyless": "serviceAccountToken",
	} {
		if got := mounts(overlay(t, component), what); !slices.Equal(got, []string{"publish-image"}) {
			t.Errorf("with %s %v have it", component, got)
		}
		if got := mounts(overlay(t), what); got != nil {
			t.Errorf("without %s %v have it", component, got)
		}
	}
}

// With signing-keyless publish-image signs by the token that its pod gets where the step looks for it, at the services
// of the settings.
func TestSigningKeyless(t *testing.T) {
	t.Parallel()
	tokenFile := ""
	for _, p := range schemas.MustLoad("publish-image").Properties {
		if p.Name == "signing-identity-token-file" {
			tokenFile = schemas.Text(p.Default)
		}
	}
	objects := build(t, overlay(t, "workflow-plane-settings", "signing-keyless"))
	for _, object := range ofKind(objects, "ClusterWorkflowTemplate") {
		if at(object, "metadata", "name") != "publish-image" {
			continue
		}
		cluster := converted[wfv1.ClusterWorkflowTemplate](t, object)
		template := cluster.Spec.Templates[0]
		if got := template.Inputs.GetParameterByName("signing"); got.Default.String() != "keyless" {
			t.Errorf("signing is %s", got.Default)
		}
		volume := template.Volumes[len(template.Volumes)-1]
		mount := template.Container.VolumeMounts[len(template.Container.VolumeMounts)-1]
		if volume.Projected == nil || mount.Name != volume.Name || !mount.ReadOnly ||
			filepath.Join(mount.MountPath, volume.Projected.Sources[0].ServiceAccountToken.Path) != tokenFile {
			t.Errorf("%+v is at %+v, and the step looks at %s", volume, mount, tokenFile)
		}
		return
	}
	t.Error("there is no publish-image")
}

// With client-assertion generate-workload-cr, and no other step, gets a token for the setting's audience and for nobody
// else, where the parameter says that it is; the audience that the step is told is the same.
func TestClientAssertion(t *testing.T) {
	t.Parallel()
	objects := build(t, overlay(t, "workflow-plane-settings", "client-assertion"))
	found := 0
	for _, object := range ofKind(objects, "ClusterWorkflowTemplate") {
		template := converted[wfv1.ClusterWorkflowTemplate](t, object).Spec.Templates[0]
		for _, volume := range template.Volumes {
			if volume.Projected == nil {
				continue
			}
			found++
			token := volume.Projected.Sources[0].ServiceAccountToken
			i := slices.IndexFunc(template.Container.VolumeMounts, func(m corev1.VolumeMount) bool {
				return m.Name == volume.Name && m.ReadOnly
			})
			if template.Name != "generate-workload-cr" || i < 0 {
				t.Fatalf("%s has %+v", template.Name, volume)
			}
			inputs := template.Inputs
			at := filepath.Join(template.Container.VolumeMounts[i].MountPath, token.Path)
			if got := inputs.GetParameterByName("oauth-client-assertion-file").Default.String(); got != at {
				t.Errorf("the step looks at %s, and the token is at %s", got, at)
			}
			audience := inputs.GetParameterByName("oauth-client-assertion-audience").Default.String()
			if audience != "" { // of which the step sends nothing
				t.Errorf("the audience is %q", audience)
			}
			for name, want := range map[string]string{
				"OAUTH_CLIENT_ASSERTION_FILE":     "{{inputs.parameters.oauth-client-assertion-file}}",
				"OAUTH_CLIENT_ASSERTION_AUDIENCE": token.Audience,
			} {
				if !slices.Contains(template.Container.Env, corev1.EnvVar{Name: name, Value: want}) {
					t.Errorf("%s is not %s", name, want)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d templates have a token", found)
	}
	for _, object := range ofKind(build(t, overlay(t)), "ClusterWorkflowTemplate") {
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "serviceAccountToken") {
			t.Errorf("%v has a token without the component", at(object, "metadata", "name"))
		}
	}
}

// With the component a check stands between build and publish, and gets of the build what publish-image gets. Without
// it there is none, and what is installed for it is in no run.
func TestGateStandsBeforePublish(t *testing.T) {
	t.Parallel()
	steps := func(dir string) map[string][]any {
		all := map[string][]any{}
		for _, cluster := range ofKind(build(t, dir), "ClusterWorkflow") {
			workflow, _, err := renderRun(cluster, ordinary())
			if err != nil {
				t.Fatal(err)
			}
			all[at(cluster, "metadata", "name").(string)] = at(workflow, "spec", "templates", 0, "steps").([]any)
		}
		return all
	}
	names := func(steps []any) (names []string) {
		for _, group := range steps {
			names = append(names, at(group, 0, "name").(string))
		}
		return names
	}
	argument := func(step any, name string) any {
		for _, p := range at(step, 0, "arguments", "parameters").([]any) {
			if at(p, "name") == name {
				return at(p, "value")
			}
		}
		return nil
	}
	without := steps(overlay(t))
	for name, with := range steps(overlay(t, "scan-gate")) {
		got := names(with)
		if len(got) != 5 || got[2] != "scan-gate" || got[3] != "publish-image" {
			t.Fatalf("%s has the steps %v", name, got)
		}
		for _, parameter := range []string{"image-digest", "base-images"} {
			if a, b := argument(with[2], parameter), argument(with[3], parameter); a == nil || a != b {
				t.Errorf("%s: the gate gets %v as %s, and publish-image %v", name, a, parameter, b)
			}
		}
		const digest = "{{steps.checkout-source.outputs.parameters.source-digest}}"
		if got := argument(with[2], "source-digest"); got != digest {
			t.Errorf("%s: the gate gets the source digest %v", name, got)
		}
		if got := names(without[name]); slices.Contains(got, "scan-gate") || len(got) != 4 {
			t.Errorf("%s has the steps %v without the component", name, got)
		}
		rest := slices.Concat(with[:2], with[3:])
		if diff := gocmp.Diff(without[name], rest); diff != "" {
			t.Errorf("%s: the other steps are not the same (-without +with)\n%s", name, diff)
		}
	}
}

// What the examples say of scanners and checks is what the template takes.
func TestExamplesOfChecks(t *testing.T) {
	t.Parallel()
	const examples = "../examples/scan-gate/"
	parameters := map[string]string{
		"scan-image": "check-image", "scan-command": "check-command", "scan-env": "check-env",
		"scan-severity": "severity", "scan-ignore-file": "ignore-file",
	}
	for _, name := range []string{"grype.env", "trivy.env"} {
		given := map[string]any{}
		for line := range strings.Lines(string(readFile(t, examples+name))) {
			key, text, ok := strings.Cut(strings.TrimSpace(line), "=")
			if !ok || strings.HasPrefix(key, "#") {
				continue
			}
			var value any
			if json.Unmarshal([]byte(text), &value) != nil {
				value = text
			}
			if parameters[key] == "" {
				t.Errorf("%s: there is no setting %s", name, key)
			}
			given[parameters[key]] = value
		}
		if len(given) != len(parameters) {
			t.Errorf("%s sets %v", name, slices.Sorted(maps.Keys(given)))
		}
		for _, fault := range schemas.MustLoad(scanGate).Validate(given) {
			t.Errorf("%s: %s", name, fault)
		}
	}

	for _, components := range [][]string{nil, {"scan-gate"}} {
		dir := overlay(t, slices.Concat(components, []string{
			"../" + examples + "licence", "../" + examples + "database",
		})...)
		objects := build(t, dir)
		for _, cluster := range ofKind(objects, "ClusterWorkflow") {
			rendered, _, err := renderRun(cluster, ordinary())
			if err != nil {
				t.Fatal(err)
			}
			workflow, err := convert[wfv1.Workflow](rendered)
			if err != nil {
				t.Fatal(err)
			}
			if err := validWorkflow(&workflow, installed(t)); err != nil {
				t.Error(err)
			}
			var names []string
			for _, group := range workflow.Spec.Templates[0].Steps {
				names = append(names, group.Steps[0].Name)
			}
			want := slices.Concat([]string{"licence"}, components, []string{"publish-image", "generate-workload-cr"})
			if !slices.Equal(names[2:], want) {
				t.Errorf("behind the build stand %q, want %q", names[2:], want)
			}
		}
		for _, object := range ofKind(objects, "ClusterWorkflowTemplate") {
			if _, err := convert[wfv1.ClusterWorkflowTemplate](object); err != nil {
				t.Error(err)
			}
		}
	}
}
