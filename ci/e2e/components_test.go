//go:build e2e

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/pki"
)

// TestComponents runs a build with each of the kustomize components, in a namespace that enforces what the component
// promises.
func TestComponents(t *testing.T) {
	restricted := map[string]string{
		"checkout-source": "restricted", "containerfile-build": "restricted", "publish-image": "restricted",
		"generate-workload-cr": "restricted", "scan-gate": "restricted", "commit-status": "restricted",
	}
	promise := func(build string) map[string]string {
		m := map[string]string{}
		for step, level := range restricted {
			m[step] = level
		}
		m["containerfile-build"] = build
		return m
	}
	tests := []struct {
		overlay  string
		group    string // folder of the repository, with a slash at its end
		enforced string // by the namespace of the runs
		promised map[string]string
		before   func(t *testing.T)
		prepare  func(t *testing.T)
		check    func(t *testing.T, run string)
	}{
		{overlay: "seccomp-profile", enforced: "baseline", promised: promise("baseline"),
			prepare: rollout("stepwright-system", "daemonset/stepwright-seccomp-profile")},
		{overlay: "user-namespaces", enforced: "privileged", promised: promise("privileged"), check: inUserNamespace},
		{overlay: "registry-cache", enforced: "privileged", promised: promise("privileged"),
			prepare: rollout("stepwright-registry-cache", "statefulset/registry-cache"),
			check:   inRegistryCache},
		{overlay: "scan-gate", enforced: "privileged", promised: promise("privileged"), before: signingKey,
			check: behindGate},
		{overlay: "client-assertion", enforced: "privileged", promised: promise("privileged"),
			check: withoutClientSecret},
		{overlay: "commit-status", group: "acme/", enforced: "privileged", promised: promise("privileged"),
			before: gitHost, check: reported},
		{overlay: "buildkit-daemon", enforced: "restricted", promised: restricted, before: buildkitCertificates,
			prepare: rollout("stepwright-buildkit", "statefulset/buildkitd"), check: inDaemon},
	}
	for _, test := range tests {
		t.Run(test.overlay, func(t *testing.T) {
			if test.before != nil {
				test.before(t)
			}
			if err := install(t.Context(), test.overlay); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				// A component's patches go when the templates are applied without it.
				if err := errors.Join(
					install(context.Background(), "default"), enforce(context.Background(), "privileged"),
				); err != nil {
					t.Error(err)
				}
			})
			if test.prepare != nil {
				test.prepare(t)
			}
			if err := enforce(t.Context(), test.enforced); err != nil {
				t.Fatal(err)
			}
			path := test.group + test.overlay + ".git"
			serving.repository(t, path, small)
			b := build{name: test.overlay, url: "https://" + publicGit + "/" + path}
			b.succeed(t, 4*time.Minute)
			serving.image(t, workload(t, b.name).Spec.Container.Image)
			reportSecurity(t, b.runName(), test.overlay, test.promised)
			if test.check != nil {
				test.check(t, b.runName())
			}
		})
	}
}

// enforce sets the Pod Security level of the namespace that builds run in.
func enforce(ctx context.Context, level string) error {
	_, err := k8s.kubectl(
		ctx, "", "label", "--overwrite", "namespace", planeNamespace, "pod-security.kubernetes.io/enforce="+level,
	)
	return err
}

func rollout(namespace, what string) func(*testing.T) {
	return func(t *testing.T) {
		must(k8s.kubectl(t.Context(), "", "-n", namespace, "rollout", "status", what, "--timeout=120s"))(t)
	}
}

func inUserNamespace(t *testing.T, run string) {
	for _, pod := range pods(t, run) {
		if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
			t.Errorf("the pod of %s is in the node's user namespace", step(pod))
		}
	}
	if said := logs(t, run); !strings.Contains(said, "a /proc of its own") {
		t.Errorf("RUNs see more than their own processes:\n%s", said)
	}
}

// withoutClientSecret wants a run to have registered by its service account alone: there was no client secret, and the
// token endpoint was the one that OpenChoreo's API named.
func withoutClientSecret(t *testing.T, run string) {
	api := k8s.dynamic.Resource(externalSecrets).Namespace(planeNamespace)
	found, err := api.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range found.Items {
		if secret.GetName() == run+"-oauth-client-secret" {
			t.Errorf("the run has %s", secret.GetName())
		}
	}
	if len(found.Items) == 0 {
		t.Error("the run has no Secrets at all")
	}
	for _, pod := range pods(t, run) {
		for _, volume := range pod.Spec.Volumes {
			if volume.Projected == nil || volume.Name != "oauth-client-assertion" {
				continue
			}
			audience := volume.Projected.Sources[0].ServiceAccountToken.Audience
			if step(pod) != "generate-workload-cr" || audience != "http://idp.stepwright.test:8091" {
				t.Errorf("%s has a token for %s", step(pod), audience)
			}
			return
		}
	}
	t.Error("no pod has the service account's token")
}

// buildkitCertificates are the platform engineer's part of the component buildkit-daemon: mutual TLS.
func buildkitCertificates(t *testing.T) {
	const ns = "stepwright-buildkit"
	authority := must(pki.NewAuthority("stepwright e2e"))(t)
	server := must(authority.Server("buildkitd", "buildkitd."+ns+".svc"))(t)
	client := must(authority.Client("stepwright"))(t)
	files := func(p pki.Pair) map[string]string {
		return map[string]string{
			"ca.crt": string(authority.PEM()), "tls.crt": string(p.Certificate), "tls.key": string(p.Key),
		}
	}
	if err := k8s.apply(t.Context(),
		object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": ns}},
		object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": "buildkitd-tls", "namespace": ns},
			"stringData": files(server)},
		stored("buildkit-client", files(client)),
	); err != nil {
		t.Fatal(err)
	}
}

func inDaemon(t *testing.T, run string) {
	for _, pod := range pods(t, run) {
		if step(pod) == "containerfile-build" && pod.Spec.Containers[1].SecurityContext.Capabilities.Add != nil {
			t.Errorf(
				"the build's container has capabilities: %v", pod.Spec.Containers[1].SecurityContext.Capabilities.Add,
			)
		}
	}
	at := daemonOf(t, run)
	servesMetricsOnly(t, at)
	again := build{
		name: "buildkit-daemon", run: "buildkit-daemon-2", url: "https://" + publicGit + "/buildkit-daemon.git",
	}
	again.succeed(t, 4*time.Minute)
	if said := logs(t, again.runName()); daemonOf(t, again.runName()) != at || !strings.Contains(said, "CACHED") {
		t.Errorf("the component's second build did not meet its cache of %s:\n%s", at, said)
	}

	// Builds that share a daemon share nothing else. By their names, all of these have the same one.
	serving.repository(t, "buildkit-owner.git", with(map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN sleep 8 && echo ran $((6*7)) | tee /made\n" +
			"RUN --mount=type=cache,target=/kept echo mine > /kept/page\n",
	}))
	owner := build{name: "buildkit-owner", url: "https://" + publicGit + "/buildkit-owner.git"}
	owner.succeed(t, 4*time.Minute)
	at = daemonOf(t, owner.name)
	for _, run := range owner.robbed(t, "buildkit-robber") {
		if got := daemonOf(t, run); got != at {
			t.Errorf("%s was built at %s, not at %s: give it another name", run, got, at)
		}
	}

	t.Run("a daemon that ends", daemonsThatEnd)
}

// daemonsThatEnd takes the daemon from under one build by force, and lets that of another end as for a node that is
// drained: both builds succeed.
func daemonsThatEnd(t *testing.T) {
	atNight(t)
	const slow = "FROM busybox:1\nRUN echo it runs; sleep 12; echo built > /built\nCMD [\"cat\", \"/built\"]\n"
	serving.repository(t, "buildkit-slow.git", with(map[string]string{"Dockerfile": slow}))
	ready := rollout("stepwright-buildkit", "statefulset/buildkitd")
	// during does something to the daemon of a run while its RUN runs.
	during := func(name string, do ...string) build {
		b := build{name: name, url: "https://" + publicGit + "/buildkit-slow.git"}
		b.start(t)
		eventually(t, 4*time.Minute, "RUN of "+name, func(context.Context) (bool, error) {
			return strings.Contains(logs(t, name), "| #") && strings.Contains(logs(t, name), " it runs\n"), nil
		})
		must(k8s.kubectl(t.Context(), "", append([]string{
			"-n", "stepwright-buildkit", "delete", "pod", daemonOf(t, name),
		}, do...)...))(t)
		return b
	}
	// The second run begins while the first one builds once more.
	killed := during("buildkit-killed", "--grace-period=0", "--force")
	ready(t)
	drained := during("buildkit-drained", "--wait=false")
	const lost = "ended in the middle of the build, which runs once more"
	killed.succeed(t, 4*time.Minute)
	if said := logs(t, killed.name); strings.Count(said, lost) != 1 {
		t.Errorf("the build did not lose its daemon once:\n%s", said)
	}
	drained.succeed(t, 4*time.Minute)
	if said := logs(t, drained.name); strings.Contains(said, lost) {
		t.Errorf("the daemon did not let the build end:\n%s", said)
	}
	ready(t)
}

// servesMetricsOnly wants a daemon's pod to serve metrics as Prometheus reads them, and nothing else that BuildKit has
// at its debug address, neither to those outside nor to a RUN, which is in the same network.
func servesMetricsOnly(t *testing.T, daemon string) {
	t.Helper()
	address := must(k8s.kubectl(
		t.Context(), "", "-n", "stepwright-buildkit", "get", "pod", daemon, "--output", "jsonpath={.status.podIP}",
	))(t)
	get := func(path string) (status int, body string) {
		response := must(http.Get("http://" + net.JoinHostPort(address, "9090") + path))(t)
		defer response.Body.Close()
		return response.StatusCode, string(must(io.ReadAll(response.Body))(t))
	}
	if status, _ := get("/debug/pprof/heap"); status != http.StatusNotFound {
		t.Errorf("profiles: %d", status)
	}
	status, body := get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil || status != http.StatusOK || families["go_goroutines"] == nil {
		t.Errorf("metrics: %d, %v\n%s", status, err, body)
	}
	serving.repository(t, "buildkit-spy.git", with(map[string]string{"Dockerfile": "FROM busybox:1\n" +
		"RUN busybox wget -qO- http://127.0.0.1:9090/metrics | grep -q '^go_goroutines '\n" +
		"RUN ! busybox wget -qO- http://127.0.0.1:9090/debug/pprof/ && test ! -e /run/stepwright\n" +
		"CMD [\"true\"]\n",
	}))
	spy := build{name: "buildkit-spy", url: "https://" + publicGit + "/buildkit-spy.git"}
	spy.succeed(t, 4*time.Minute)
}

var daemonAddress = regexp.MustCompile(`tcp://(buildkitd-[0-9]+)\.buildkitd\.stepwright-buildkit\.svc\S*:1234`)

// daemonOf returns the pod of the daemon that a run built on first.
func daemonOf(t *testing.T, run string) string {
	t.Helper()
	said := logs(t, run)
	at := daemonAddress.FindStringSubmatch(said)
	if at == nil {
		t.Fatalf("the build does not tell of the daemon:\n%s", said)
	}
	return at[1]
}

// inRegistryCache wants the base image to be in the cache: its catalog lists what it keeps.
func inRegistryCache(t *testing.T, _ string) {
	response := must(http.Get("http://registry-cache.stepwright-registry-cache.svc.cluster.local:5000/v2/_catalog"))(t)
	defer response.Body.Close()
	if catalog := string(must(io.ReadAll(response.Body))(t)); !strings.Contains(catalog, `"library/busybox"`) {
		t.Errorf("the cache keeps %s, and not library/busybox", catalog)
	}
}
