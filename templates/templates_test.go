package templates_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/templates"
)

// fileOf is where an object comes from.
func fileOf(object map[string]any) string {
	return "templates/workflow-plane/" + at(object, "metadata", "name").(string) + ".yaml"
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	objects := ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate")
	if len(objects) != len(steps) {
		t.Errorf("there are %d templates, want %d", len(objects), len(steps))
	}
	for _, object := range objects {
		for _, fault := range lintTemplate(fileOf(object), object, byDefault) {
			t.Error(fault)
		}
	}
}

// The files hold the values of the settings: installing a file alone and installing its folder give the same object.
func TestFilesHoldTheSettings(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"workflow-plane", "control-plane"} {
		for _, built := range build(t, dir) {
			name := at(built, "metadata", "name").(string)
			file := readYAML(t, filepath.Join(dir, name+".yaml"))
			labels := at(built, "metadata", "labels").(map[string]any)
			delete(labels, "app.kubernetes.io/version")
			delete(labels, "stepwright.dev/plane")
			for _, container := range containers(built) {
				if image := container["image"].(string); strings.HasPrefix(image, "ghcr.io/stepwright/") {
					container["image"], _, _ = strings.Cut(image, ":")
				}
			}
			if diff := gocmp.Diff(file, built); diff != "" {
				t.Errorf("%s/%s.yaml is not what settings.env makes of it (-file +built)\n%s", dir, name, diff)
			}
		}
	}
}

// containers returns the containers of a ClusterWorkflowTemplate; none for another object.
func containers(object map[string]any) []map[string]any {
	var all []map[string]any
	if main, ok := at(object, "spec", "templates", 0, "container").(map[string]any); ok {
		all = append(all, main)
	}
	inits, _ := at(object, "spec", "templates", 0, "initContainers").([]any)
	for _, c := range inits {
		all = append(all, c.(map[string]any))
	}
	return all
}

// One version: of both planes, all images, and the changelog's latest.
func TestOneVersion(t *testing.T) {
	t.Parallel()
	found := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`).FindSubmatch(readFile(t, "../CHANGELOG.md"))
	if found == nil {
		t.Fatal("CHANGELOG.md names no version")
	}
	version := string(found[1])
	for _, object := range append(build(t, "workflow-plane"), build(t, "control-plane")...) {
		if got := at(object, "metadata", "labels", "app.kubernetes.io/version"); got != version {
			t.Errorf("%s has version %v, the changelog %s", fileOf(object), got, version)
		}
		for _, c := range containers(object) {
			if image := c["image"].(string); strings.HasPrefix(image, "ghcr.io/stepwright/") &&
				!strings.HasSuffix(image, ":"+version) {
				t.Errorf("%s has image %s, the changelog's version is %s", fileOf(object), image, version)
			}
		}
	}
}

// Every rule finds the template that breaks it, and names file and field.
func TestTemplatesThatBreakARule(t *testing.T) {
	t.Parallel()
	container := []any{"spec", "templates", 0, "container"}
	in := func(more ...any) []any { return append(slices.Clone(container), more...) }
	template := func(more ...any) []any { return append([]any{"spec", "templates", 0}, more...) }
	builder := templates.Builders()[0]
	tests := []struct {
		name, template string
		path           []any
		value          any
		want           string // of a fault, after the file
	}{
		{"an unknown field", "publish-image", in("securityContex"), map[string]any{},
			`spec: json: unknown field "securityContex"`},
		{"another name", "publish-image", []any{"metadata", "name"}, "push-image",
			`metadata.name: "push-image" is not in the contract`},
		{"no version", "publish-image", []any{"metadata", "labels"}, nil,
			`metadata.labels: app.kubernetes.io/version is absent`},
		{"another template", "publish-image", template("name"), "push",
			`spec.templates: must be one template named publish-image`},
		{"a parameter that is not there", "publish-image", in("env", 0, "value"), "{{inputs.parameters.nothing}}",
			`spec: Argo: templates.publish-image`},
		{"a variable that the schema lacks", "publish-image", in("env", 0, "name"), "IMAGE",
			`spec.templates[0].container.env[IMAGE]: schema publish-image has no property image`},
		{"a required one is absent", "publish-image", in("env", 0, "name"), "HOME",
			`spec.templates[0].container.env: image-name, which the step requires, is absent`},
		{"an input that the schema lacks", "checkout-source", template("inputs", "parameters", 0, "name"), "depth",
			`spec.templates[0].inputs.parameters[depth]: schema checkout-source has no such property`},
		{"an input that nothing uses", "checkout-source", in("env", 3, "value"), "false",
			`spec.templates[0].inputs.parameters[git-secret-required]: is not used`},
		{"a default of the wrong type", "checkout-source", template("inputs", "parameters", 1, "default"), "soon",
			`spec.templates[0].inputs.parameters[git-secret-timeout].default: is no integer`},
		{"a default that the schema refuses", "containerfile-build", template("inputs", "parameters", 4, "default"),
			"some", `spec.templates[0].inputs.parameters[provenance].default: provenance: value must be one of`},
		{"text around a parameter", "checkout-source", in("env", 0, "value"), "x{{workflow.parameters.git-repo}}",
			`spec.templates[0].container.env[GIT_REPO]: x{{workflow.parameters.git-repo}} must be one parameter`},
		{"a workflow parameter beyond the contract", "checkout-source", in("env", 0, "value"),
			"{{workflow.parameters.repo}}",
			`spec.templates[0].container.env[GIT_REPO]: the contract has no workflow parameter repo`},
		{"a shell", "checkout-source", in("command"), []any{"sh", "-c", "git clone {{workflow.parameters.git-repo}}"},
			`spec.templates[0].container.command: is ["sh"`},
		{"arguments", "checkout-source", in("args"), []any{"--git-repo={{workflow.parameters.git-repo}}"},
			`spec.templates[0].container.args: must be absent`},
		{"a script", "checkout-source", template("script"), map[string]any{"image": "a:1", "source": "x"},
			`spec.templates[0].container: must be there, and no script`},
		{"a sidecar", "checkout-source", template("sidecars"), []any{map[string]any{"name": "a", "image": "a:1"}},
			`spec.templates[0].container: must be there, and no script`},
		{"retries of Argo", "checkout-source", template("retryStrategy"), map[string]any{"limit": "2"},
			`spec.templates.[0].retryStrategy: is not allowed`},
		{"a service account", "checkout-source", template("serviceAccountName"), "admin",
			`spec.templates.[0].serviceAccountName: is not allowed`},
		{"no deadline", "checkout-source", template("activeDeadlineSeconds"), nil,
			`spec.templates[0].activeDeadlineSeconds: must be the input parameter`},
		{"a privileged container", "containerfile-build", in("securityContext", "privileged"), true,
			`spec.templates[0].container.securityContext: privileged is true, want false`},
		{"one more capability", "containerfile-build", in("securityContext", "capabilities", "add"),
			[]any{"SYS_ADMIN"}, `spec.templates[0].container.securityContext: capabilities is map`},
		{"escalation", "publish-image", in("securityContext", "allowPrivilegeEscalation"), true,
			`spec.templates[0].container.securityContext: allowPrivilegeEscalation is true`},
		{"a root file system to write to", "publish-image", in("securityContext", "readOnlyRootFilesystem"), false,
			`spec.templates[0].container.securityContext: readOnlyRootFilesystem is false`},
		{"a context beyond what is stated", "publish-image", in("securityContext", "procMount"), "Unmasked",
			`spec.templates[0].container.securityContext: [procMount] is not allowed`},
		{"root", "publish-image", template("securityContext", "runAsUser"), 0,
			`spec.templates[0].securityContext: runAsUser is 0, want 1000`},
		{"no pod security", "publish-image", template("securityContext"), nil,
			`spec.templates[0].securityContext: fsGroup is <nil>`},
		{"hostUsers", "publish-image", template("podSpecPatch"), `{"hostUsers": false, ` + argoContainers,
			`spec.templates[0].podSpecPatch: is {"containers"`},
		{"Argo's containers as they are", "publish-image", template("podSpecPatch"), "",
			`spec.templates[0].podSpecPatch: is null, want {"initContainers"`},
		{"no memory limit", "publish-image", in("resources", "limits", "memory"), nil,
			`spec.templates[0].container.resources.limits.memory: is absent`},
		{"no request for storage", "publish-image", in("resources", "requests", "ephemeral-storage"), nil,
			`spec.templates[0].container.resources.requests.ephemeral-storage: is absent`},
		{"latest", "publish-image", in("image"), "ghcr.io/stepwright/publish-image:latest",
			`spec.templates[0].container.image: ghcr.io/stepwright/publish-image:latest has no tag or digest that ` +
				`stays`},
		{"no tag", "publish-image", in("image"), "localhost:5000/publish-image",
			`spec.templates[0].container.image: localhost:5000/publish-image has no tag`},
		{"an image by parameter", "publish-image", in("image"), "{{inputs.parameters.registry}}:1",
			`spec.templates[0].container.image: {{inputs.parameters.registry}}:1 is not fixed`},
		{"an output without a default", "publish-image", template("outputs", "parameters", 0, "valueFrom", "default"),
			nil,
			`spec.templates[0].outputs.parameters[image]: must be read from /tmp/results/image and have a default`},
		{"an output from elsewhere", "publish-image", template("outputs", "parameters", 0, "valueFrom", "path"),
			"/tmp/image.txt", `spec.templates[0].outputs.parameters[image]: must be read from`},
		{"a Secret that nothing says anything of", "publish-image", template("volumes", 0, "secret", "optional"), false,
			`spec.templates[0].volumes[registry-push-secret].secret.optional: is false`},
		{"a push that may be anonymous", "publish-image", template("inputs", "parameters", 19, "default"), "false",
			`spec.templates[0].inputs.parameters[push-secret-required]: is "false"`},
		{"a step that does not wait", "publish-image", template("inputs", "parameters", 21, "default"), "5",
			`spec.templates[0].inputs.parameters[secret-timeout]: is "5"`},
		{"a Git secret that public repositories lack", "checkout-source", template("volumes", 0, "secret", "optional"),
			false, `spec.templates[0].volumes[git-secret].secret.optional: is false`},
		{"the node's files", "publish-image", template("volumes", 2),
			map[string]any{"name": "ca-bundle", "hostPath": map[string]any{"path": "/"}},
			`spec.templates.[0].volumes.[2].hostPath: is not allowed`},
		{"a volume without an end", "publish-image", template("volumes", 3, "emptyDir"), map[string]any{},
			`spec.templates[0].volumes[tmp].emptyDir.sizeLimit: is absent`},
		{"the token in the container", "publish-image", in("volumeMounts", 6, "mountPath"), "/var/run/secrets",
			`spec.templates[0].container.volumeMounts: an emptyDir must be at ` +
				`/var/run/secrets/kubernetes.io/serviceaccount`},
		{"an init container of a step that needs none", "publish-image", template("initContainers"),
			[]any{map[string]any{"name": "a", "image": "a:1", "command": []any{"a"}}},
			`spec.templates[0].container: must be there, and no script`},
		{"another init container", builder.Template, template("initContainers", 1, "command"),
			[]any{"/usr/local/bin/buildpacks-build", "sh"}, `spec.templates[0].initContainers[1].command: is [`},
		{"arguments of an init container", builder.Template, template("initContainers", 1, "args"),
			[]any{"{{workflow.parameters.app-path}}"}, `spec.templates[0].initContainers[1].command: is [`},
		{"strangers' code in another image", builder.Template, template("initContainers", 2, "image"), "busybox:1",
			`spec.templates[0].initContainers[2].image: busybox:1 is not the image that seals`},
		{"strangers' code with the whole workspace", builder.Template,
			template("initContainers", 2, "volumeMounts", 0, "subPath"), nil,
			`spec.templates[0].initContainers[2].volumeMounts[workspace]: must be source or tree alone`},
		{"strangers' code with the image", builder.Template,
			template("initContainers", 2, "volumeMounts", 1, "subPath"), "image",
			`spec.templates[0].initContainers[2].volumeMounts[workspace]: must be source or tree alone`},
		{"strangers' code that writes the source", builder.Template,
			template("initContainers", 2, "volumeMounts", 0, "readOnly"), false,
			`spec.templates[0].initContainers[2].volumeMounts[workspace]: must be source or tree alone`},
		{"strangers' code that writes what was fetched", builder.Template,
			template("initContainers", 2, "volumeMounts", 4, "readOnly"), false,
			`spec.templates[0].initContainers[2].volumeMounts[fetched]: can be written to`},
		{"strangers' code that writes results", builder.Template,
			template("initContainers", 2, "volumeMounts", 6, "name"), "tmp",
			`spec.templates[0].initContainers[2].volumeMounts[tmp]: can be written to`},
		{"strangers' code with credentials", builder.Template,
			template("initContainers", 2, "volumeMounts", 3, "name"), "registry-pull-secret",
			`spec.templates[0].initContainers[2].volumeMounts[registry-pull-secret]: is a Secret`},
		{"a check with credentials", "scan-gate", template("initContainers", 1, "volumeMounts", 5, "name"),
			"registry-pull-secret",
			`spec.templates[0].initContainers[1].volumeMounts[registry-pull-secret]: is a Secret`},
		{"a check with the token", "scan-gate", template("initContainers", 1, "volumeMounts", 6, "mountPath"), "/token",
			`spec.templates[0].initContainers[1].volumeMounts: an emptyDir must be at`},
		{"a check that writes the source", "scan-gate", template("initContainers", 1, "volumeMounts", 0, "readOnly"),
			false, `spec.templates[0].initContainers[1].volumeMounts[workspace]: must be source or tree alone`},
		{"a check with the image in the workspace", "scan-gate",
			template("initContainers", 1, "volumeMounts", 0, "subPath"), "image",
			`spec.templates[0].initContainers[1].volumeMounts[workspace]: must be source or tree alone`},
		{"a check that writes the image", "scan-gate", template("initContainers", 1, "volumeMounts", 2, "readOnly"),
			false, `spec.templates[0].initContainers[1].volumeMounts[prepared]: can be written to`},
		{"a check that writes results", "scan-gate", template("initContainers", 1, "volumeMounts", 5, "name"), "tmp",
			`spec.templates[0].initContainers[1].volumeMounts[tmp]: can be written to`},
		{"a check that is root", "scan-gate", template("initContainers", 1, "securityContext", "runAsUser"), 0,
			`spec.templates[0].initContainers[1].securityContext: runAsUser is 0`},
		{"a check that is no slot", "scan-gate", template("initContainers", 1, "image"), "busybox:1",
			`spec.templates[0].initContainers[1].image: busybox:1 is not the input parameter check-image`},
		{"a check by a shell", "scan-gate", template("initContainers", 1, "command"), []any{"sh", "-c", "x"},
			`spec.templates[0].initContainers[1].command: is ["sh"`},
		{"a decision where the check can write", "scan-gate", in("volumeMounts", 3, "readOnly"), false,
			`spec.templates[0].container.volumeMounts[check-results]: must be read-only`},
		{"a decision with credentials", "scan-gate", in("volumeMounts", 5, "name"), "registry-pull-secret",
			`spec.templates[0].container.volumeMounts[registry-pull-secret]: is a Secret`},
		{"another Secret as bindings", builder.Template,
			template("volumes", 11, "secret", "secretName"), "registry-push-secret",
			`spec.templates[0].initContainers[2].volumeMounts[bindings]: is a Secret`},
		{"results of which another container has the volume", builder.Template,
			template("initContainers", 1, "volumeMounts", 0, "name"), "tmp",
			`spec.templates[0].initContainers[1].volumeMounts[tmp]: holds the results`},
		{"an image that is sealed in the whole workspace", builder.Template, in("volumeMounts", 0, "subPath"), nil,
			`spec.templates[0].container.volumeMounts[workspace]: must be image, cache or sbom alone`},
		{"a record that is writable where an image is sealed", builder.Template, in("volumeMounts", 4, "readOnly"), nil,
			`spec.templates[0].container.volumeMounts[fetched]: must be read-only`},
		{"another image in front", builder.Template, template("initContainers", 0, "image"), "busybox:1",
			`spec.templates[0].initContainers[0].image: busybox:1 is not the step's`},
		{"root in front", builder.Template, template("initContainers", 0, "securityContext", "runAsUser"), 0,
			`spec.templates[0].initContainers[0].securityContext: runAsUser is 0`},
		{"another user than the builder's", builder.Template, template("securityContext", "runAsUser"), 999,
			fmt.Sprintf(`spec.templates[0].securityContext: runAsUser is 999, want %d`, builder.Builder.User)},
		{"a builder by tag", builder.Template, in("image"), builder.Builder.Name + ":v1",
			`spec.templates[0].container.image: ` + builder.Builder.Name + `:v1 has no digest`},
		{"credentials where buildpacks run", builder.Template, in("volumeMounts", 3, "name"),
			"registry-pull-secret",
			`spec.templates[0].container.volumeMounts[registry-pull-secret]: is a Secret, where buildpacks run`},
		{"bindings where an image is sealed", builder.Template, in("volumeMounts", 3, "name"), "bindings",
			`spec.templates[0].container.volumeMounts[bindings]: is a Secret, where buildpacks run`},
		{"the token in front", builder.Template, template("initContainers", 1, "volumeMounts", 3, "mountPath"),
			"/token", `spec.templates[0].initContainers[1].volumeMounts: an emptyDir must be at`},
		{"no /tmp", "publish-image", in("volumeMounts", 4, "mountPath"), "/temp",
			`spec.templates[0].container.volumeMounts: there must be a volume at /tmp`},
		{"a workspace that publish may change", "publish-image", in("volumeMounts", 0, "readOnly"), false,
			`spec.templates[0].container.volumeMounts[workspace]: must be read-only`},
		{"another workspace", "publish-image", in("volumeMounts", 0, "mountPath"), "/workspace",
			`spec.templates[0].container.volumeMounts: the workspace must be at /mnt/vol`},
		{"the whole workspace where code of strangers runs", "containerfile-build", in("volumeMounts", 0, "subPath"),
			"", `spec.templates[0].container.volumeMounts: the workspace must be mounted folder by folder`},
		{"a source to write to", "containerfile-build", in("volumeMounts", 0, "readOnly"), false,
			`spec.templates[0].container.volumeMounts: the workspace's folder source must be read-only`},
		{"a list of files to write to", "generate-workload", in("volumeMounts", 1, "readOnly"), false,
			`spec.templates[0].container.volumeMounts: the workspace's folder tree must be read-only`},
		{"another folder of the workspace", "containerfile-build", in("volumeMounts", 2, "subPath"), "source/image",
			`spec.templates[0].container.volumeMounts: the workspace's folder source/image must be at`},
		{"results where everything else is", "containerfile-build", in("volumeMounts", 7, "mountPath"), "/tmp/other",
			`spec.templates[0].container.volumeMounts: a volume of its own must be at /tmp/results/`},
	}
	objects := build(t, "workflow-plane")
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			i := slices.IndexFunc(objects, func(o map[string]any) bool {
				return at(o, "metadata", "name") == test.template
			})
			broken := clone(objects[i]).(map[string]any)
			set(t, broken, test.value, test.path...)
			got := lintTemplate(fileOf(objects[i]), broken, byDefault)
			want := fileOf(objects[i]) + ": " + test.want
			if !slices.ContainsFunc(got, func(fault string) bool { return strings.HasPrefix(fault, want) }) {
				t.Errorf("got %q, want one that begins with %q", got, want)
			}
		})
	}
}
