//go:build e2e

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finding is one of stepwright doctor's.
type finding struct{ Check, State, Where, What, Mend string }

// doctor looks at the cluster as a platform engineer does.
func doctor(ctx context.Context, args ...string) (findings []finding, code int, err error) {
	cmd := exec.CommandContext(ctx, *cli, append([]string{"doctor", "-o", "json"}, args...)...)
	out, err := cmd.Output()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		return nil, 0, err
	}
	if len(out) > 0 {
		err = json.Unmarshal(out, &findings)
	} else {
		err = nil
	}
	return findings, cmd.ProcessState.ExitCode(), err
}

// account binds the service account of runs to its rights.
const account = "workflow-sa-role-binding"

// leaveNothing removes what earlier tests left on purpose, so that the doctor sees none of it.
func leaveNothing(t *testing.T) {
	t.Helper()
	if _, err := k8s.kubectl(t.Context(), "", "-n", planeNamespace, "get", "rolebinding", account); err != nil {
		// OpenChoreo makes the service account and its rights with the first run.
		serving.repository(t, "doctor.git", small)
		build{name: "doctor", url: "https://" + publicGit + "/doctor.git"}.succeed(t, 5*time.Minute)
	}
	for _, resource := range []string{"workflowruns.openchoreo.dev", "externalsecrets.external-secrets.io", "pods"} {
		in := planeNamespace
		if strings.HasPrefix(resource, "workflowruns") {
			in = namespace
		}
		must(k8s.kubectl(t.Context(), "", "-n", in, "delete", resource, "--all", "--wait=false"))(t)
	}
	eventually(t, 2*time.Minute, "no problem", func(ctx context.Context) (bool, error) {
		_, code, err := doctor(ctx, "--kubeconfig", k8s.kubeconfig, "-n", namespace)
		return code == 0, err
	})
}

// TestDoctor breaks the cluster in one way after another: stepwright doctor finds each, and nothing when it is mended.
func TestDoctor(t *testing.T) {
	here := []string{"--kubeconfig", k8s.kubeconfig, "-n", namespace}
	leaveNothing(t)
	kubectl := func(input string, args ...string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			must(k8s.kubectl(context.WithoutCancel(t.Context()), input, args...))(t)
		}
	}
	reinstall := func(t *testing.T) {
		if err := install(context.WithoutCancel(t.Context()), "default"); err != nil {
			t.Error(err)
		}
	}
	storage := must(k8s.core.StorageV1().StorageClasses().List(t.Context(), metav1.ListOptions{}))(t).Items
	const defaultClass = "storageclass.kubernetes.io/is-default-class"
	i := slices.IndexFunc(storage, func(c storagev1.StorageClass) bool { return c.Annotations[defaultClass] == "true" })
	if i < 0 {
		t.Fatal("there is no default StorageClass")
	}
	binding := must(k8s.kubectl(t.Context(), "", "-n", planeNamespace, "get", "rolebinding", account,
		"-o", "json"))(t)
	stuck := canonical(t, object{"apiVersion": "v1", "kind": "Pod",
		"metadata": object{"name": "stuck", "namespace": planeNamespace},
		"spec": object{
			"containers": []any{object{"name": "main", "image": registryHost + "/none:1",
				"volumeMounts": []any{object{"name": "secret", "mountPath": "/secret"}}}},
			"volumes": []any{object{"name": "secret", "secret": object{"secretName": "never"}}},
		}})
	lost := canonical(t, object{"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
		"metadata": object{"name": "lost", "namespace": planeNamespace},
		"spec": object{"secretStoreRef": object{"kind": "ClusterSecretStore", "name": "default"},
			"data": []any{object{"secretKey": "a", "remoteRef": object{"key": "no-such-key", "property": "value"}}}}})

	patchPlane := func(how string) func(*testing.T) {
		return kubectl("", "patch", "clusterworkflowplane", "default", "--type=json", "-p", how)
	}
	noStore := patchPlane(`[{"op":"remove","path":"/spec/secretStoreRef"}]`)
	withStore := patchPlane(`[{"op":"add","path":"/spec/secretStoreRef","value":{"name":"default"}}]`)
	badStore := kubectl("", "patch", "clustersecretstore", "default", "--type=json", "-p",
		`[{"op":"replace","path":"/spec/provider/kubernetes/auth/serviceAccount/name","value":"nobody"}]`)
	store := must(k8s.kubectl(t.Context(), "", "get", "clustersecretstore", "default", "-o", "json"))(t)
	goodStore := kubectl(bare(t, store), "apply", "--server-side", "--force-conflicts", "-f", "-")
	allowed := must(k8s.kubectl(t.Context(), "", "get", "clustercomponenttype", "service", "-o", "json"))(t)

	for _, test := range []struct {
		name                string
		breaks, mends       func(*testing.T)
		check, state        string
		where, what, advice string
	}{
		{"a template that is not there", kubectl("", "delete", "clusterworkflowtemplate", "publish-image"), reinstall,
			"templates", "problem", "ClusterWorkflowTemplate publish-image", "is not there", "kubectl apply -k"},
		{"a ClusterWorkflow that is not there", kubectl("", "delete", "clusterworkflow", "paketo-buildpacks-builder"),
			reinstall, "templates", "problem", "ClusterWorkflow paketo-buildpacks-builder", "is not there", "apply -k"},
		{"a template of another version", kubectl("", "label", "--overwrite", "clusterworkflowtemplate",
			"checkout-source", "app.kubernetes.io/version=0.0.1"), reinstall,
			"templates", "warning", "ClusterWorkflowTemplate checkout-source", "is of version 0.0.1", "apply -k"},
		{"an example's registry", func(t *testing.T) {
			raw := must(k8s.kubectl(
				t.Context(), "", "get", "clusterworkflowtemplate", "publish-image", "-o", "json",
			))(t)
			raw = strings.ReplaceAll(raw, `"default": "`+registryHost, `"default": "registry.example.com`)
			kubectl(bare(t, raw), "apply", "--server-side", "--force-conflicts", "-f", "-")(t)
		}, reinstall, "settings", "problem", "ClusterWorkflowTemplate publish-image", "registry.example.com",
			"Set registry in settings.env"},
		{"a plane without a secret store", noStore, withStore, "workflow-plane", "problem",
			"ClusterWorkflowPlane default", "names no secret store", "spec.secretStoreRef"},
		{"a secret store that nobody can read", badStore, goodStore, "secret-store", "problem",
			"ClusterSecretStore default", "is not ready", "provider"},
		{"a key that the store does not have", kubectl(lost, "apply", "-f", "-"),
			kubectl("", "-n", planeNamespace, "delete", "externalsecret", "lost"), "secrets", "problem",
			"ExternalSecret " + planeNamespace + "/lost", "SecretSyncedError", "Put the key into the secret store"},
		{"a service account without rights", kubectl("", "-n", planeNamespace, "delete", "rolebinding",
			account), kubectl(bare(t, binding), "apply", "-f", "-"), "service-account", "problem",
			"ServiceAccount " + planeNamespace + "/workflow-sa", "may not create workflowtaskresults", "Bind it"},
		{"a namespace that lets no build in", kubectl("", "label", "--overwrite", "namespace", planeNamespace,
			"pod-security.kubernetes.io/enforce=restricted"), kubectl("", "label", "namespace", planeNamespace,
			"pod-security.kubernetes.io/enforce-"), "pod-security", "problem", "Namespace " + planeNamespace,
			"enforces restricted", "buildkit-daemon"},
		{"a component type without the workflows", func(t *testing.T) {
			raw := strings.ReplaceAll(allowed, `"ballerina-buildpack-builder"`, `"another-builder"`)
			kubectl(bare(t, raw), "apply", "--server-side", "--force-conflicts", "-f", "-")(t)
		}, kubectl(bare(t, allowed), "apply", "--server-side", "--force-conflicts", "-f", "-"), "component-types",
			"warning", "ClusterWorkflow ballerina-buildpack-builder", "no ClusterComponentType", "allowedWorkflows"},
		{"no default storage class", kubectl("", "annotate", "--overwrite", "storageclass", storage[i].Name,
			defaultClass+"=false"), kubectl("", "annotate", "--overwrite", "storageclass", storage[i].Name,
			defaultClass+"=true"), "storage", "warning", "StorageClass", "no class is the default",
			"workspace-storage-class"},
		{"a pod that does not start", kubectl(stuck, "apply", "-f", "-"),
			kubectl("", "-n", planeNamespace, "delete", "pod", "stuck", "--now"), "pods", "problem",
			"Pod " + planeNamespace + "/stuck", "has waited for", "describe pod stuck"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.check == "pods" { // it has to wait for a minute
				atNight(t)
			}
			test.breaks(t)
			defer test.mends(t)
			eventually(t, 3*time.Minute, "the finding", func(ctx context.Context) (bool, error) {
				findings, code, err := doctor(ctx, here...)
				return (code != 0) == (test.state == "problem") && slices.ContainsFunc(findings, func(f finding) bool {
					return f.Check == test.check && f.State == test.state && f.Where == test.where &&
						strings.Contains(f.What, test.what) && strings.Contains(f.Mend, test.advice)
				}), err
			})
		})
	}
	eventually(t, 2*time.Minute, "no problem when all is mended", func(ctx context.Context) (bool, error) {
		findings, code, err := doctor(ctx, here...)
		if code != 0 {
			t.Logf("%+v", findings)
		}
		return code == 0, err
	})
	t.Run("from inside a pod", testProbes)
	t.Run("another server", func(t *testing.T) {
		_, code, err := doctor(t.Context(), "--kubeconfig", k8s.kubeconfig, "--context", "none")
		if code != 2 || err != nil {
			t.Errorf("exit code %d, %v", code, err)
		}
	})
}

// testProbes breaks what only a pod meets: stepwright doctor --probe finds each, and leaves nothing behind.
func testProbes(t *testing.T) {
	here := []string{"--kubeconfig", k8s.kubeconfig, "-n", namespace, "--probe", "--all"}
	ctx := context.WithoutCancel(t.Context())
	store := func(key string, properties map[string]string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if err := k8s.apply(ctx, stored(key, properties)); err != nil {
				t.Error(err)
			}
		}
	}
	kubectl := func(input string, args ...string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			must(k8s.kubectl(ctx, input, args...))(t)
		}
	}
	// edit replaces a text of an object; reinstall takes it back.
	edit := func(kind, name, from, to string) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			was := bare(t, must(k8s.kubectl(ctx, "", "get", kind, name, "-o", "json"))(t))
			raw := strings.ReplaceAll(was, from, to)
			if raw == was {
				t.Fatalf("%s %s has no %s", kind, name, from)
			}
			must(k8s.kubectl(ctx, raw, "apply", "--server-side", "--force-conflicts", "-f", "-"))(t)
		}
	}
	reinstall := func(t *testing.T) {
		if err := install(ctx, "default"); err != nil {
			t.Error(err)
		}
	}
	client := map[string]string{"value": "openchoreo-workload-publisher-secret"}
	bound := publisherBinding(t)
	const never = `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"never"},` +
		`"provisioner":"stepwright.test/never","volumeBindingMode":"WaitForFirstConsumer"}`
	probes := registryHost + "/builds/stepwright-doctor"
	const token, api = "http://idp.stepwright.test:8091/oauth2/token", "http://api.stepwright.test:8090"

	for _, test := range []struct {
		name                string
		breaks, mends       func(*testing.T)
		check, state        string
		where, what, advice string
	}{
		{"a wrong password to push", store("registry-push-secret", map[string]string{
			"value": dockerConfig(pushUser, "canary-wrong"),
		}), store("registry-push-secret", map[string]string{"value": dockerConfig(pushUser, pushPassword)}),
			"registry-push", "problem", probes, "PushDenied", "registry push secret"},
		{"a registry that deletes nothing", func(*testing.T) { serving.keeps.Store(true) },
			func(*testing.T) { serving.keeps.Store(false) }, "registry-delete", "warning", probes, "stays",
			"No run needs to delete"},
		{"a wrong client secret", store("workload-publisher-client-secret", map[string]string{"value": "canary-wrong"}),
			store("workload-publisher-client-secret", client), "oauth-token", "problem", token, "Unauthorized", ""},
		{"a client without a role", kubectl(bound, "delete", "-f", "-"), kubectl(bound, "apply", "-f", "-"),
			"api-role", "problem", api, "Forbidden", "role"},
		{"another token endpoint", edit("clusterworkflowtemplate", "generate-workload", token, token+"/nowhere"),
			reinstall, "oauth-token", "problem", token + "/nowhere", "NotFound", "oauth-token-url"},
		{"a key that the store lacks", edit("clusterworkflow", "dockerfile-builder",
			`\"registry-pull-secret\" +`, `\"nobodys-secret\" +`), reinstall, "secret-keys", "problem",
			"key nobodys-secret of ClusterSecretStore default", "SecretSyncedError", "Put the key into"},
		{"a storage class that gives nothing", func(t *testing.T) {
			kubectl(never, "apply", "-f", "-")(t)
			const builder, omitted = "dockerfile-builder", `.map(class, class == \"\" ? oc_omit() : class)[0]}"`
			edit("clusterworkflow", builder, `${[\"\"]`+omitted, `${[\"never\"]`+omitted)(t)
			// The pods' priority class has the same expression.
			edit("clusterworkflow", builder,
				`"podPriorityClassName": "${[\"never\"]`, `"podPriorityClassName": "${[\"\"]`)(t)
		}, func(t *testing.T) {
			reinstall(t)
			kubectl("", "delete", "storageclass", "never")(t)
		}, "storage-binding", "problem", "StorageClass never", "no volume within", "workspace-storage-class"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.check == "storage-binding" { // the probe gives it three minutes
				atNight(t)
			}
			test.breaks(t)
			defer test.mends(t)
			var findings []finding
			eventually(t, 8*time.Minute, "the finding", func(ctx context.Context) (_ bool, err error) {
				var code int
				findings, code, err = doctor(ctx, here...)
				if err == nil {
					err = fmt.Errorf("%+v", findings)
				}
				return (code != 0) == (test.state == "problem") && slices.ContainsFunc(findings, func(f finding) bool {
					return f.Check == test.check && f.State == test.state && f.Where == test.where &&
						strings.Contains(f.What, test.what) && strings.Contains(f.Mend, test.advice)
				}), err
			})
			nothingOfProbes(t)
		})
	}
	eventually(t, 4*time.Minute, "no problem when all is mended", func(ctx context.Context) (bool, error) {
		findings, code, err := doctor(ctx, here...)
		for _, check := range []string{
			"secret-keys", "storage-binding", "node", "builder", "registry-push", "registry-pull", "registry-delete",
			"oauth-token", "api", "api-role",
		} {
			if !slices.ContainsFunc(findings, func(f finding) bool { return f.Check == check && f.State == "ok" }) {
				return false, fmt.Errorf("%s is not ok: %+v", check, findings)
			}
		}
		return code == 0, err
	})
	t.Run("interrupted", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), *cli, append([]string{"doctor"}, here...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "a pod", func(ctx context.Context) (bool, error) {
			pods, err := k8s.kubectl(ctx, "", "-n", planeNamespace, "get", "pods", "-l", probeLabel, "-o", "name")
			return pods != "", err
		})
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("it ended as if it had not been interrupted")
		}
		nothingOfProbes(t)
	})
	if serving.has(t, probes+":stepwright-check") {
		t.Error("the registry still has what was pushed to look")
	}
}

// publisherBinding is the ClusterAuthzRoleBinding by which the pipelines' client has its role. Each kind of cluster has
// a name of its own for it.
func publisherBinding(t *testing.T) string {
	t.Helper()
	var list struct{ Items []object }
	raw := must(k8s.kubectl(t.Context(), "", "get", "clusterauthzrolebindings", "-o", "json"))(t)
	if err := json.Unmarshal([]byte(raw), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		spec, _ := item["spec"].(object)
		entitlement, _ := spec["entitlement"].(object)
		if entitlement["value"] == "openchoreo-workload-publisher-client" {
			return bare(t, canonical(t, item))
		}
	}
	t.Fatalf("no binding is for the pipelines' client:\n%s", raw)
	return ""
}

const probeLabel = "stepwright.dev/doctor"

// nothingOfProbes wants that a probe has left nothing in the cluster.
func nothingOfProbes(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "nothing of a probe", func(ctx context.Context) (bool, error) {
		left, err := k8s.kubectl(ctx, "", "-n", planeNamespace, "get", "-l", probeLabel, "-o", "name",
			"pods,persistentvolumeclaims,secrets,externalsecrets.external-secrets.io")
		if err == nil && left != "" {
			err = errors.New(left)
		}
		return left == "", err
	})
}

// bare is an object as somebody would have written it.
func bare(t *testing.T, raw string) string {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(raw), &o); err != nil {
		t.Fatal(err)
	}
	metadata := o["metadata"].(object)
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"} {
		delete(metadata, field)
	}
	delete(o, "status")
	return canonical(t, o)
}
