package lint

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/workflow/validate"
	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/controlplane/render"
	"github.com/stepwright/stepwright/internal/kustomization"
	"github.com/stepwright/stepwright/schemas"
)

// steps are the ClusterWorkflowTemplates by name (contract section 1): their template, their step's schema, and their
// file.
var steps = map[string]struct{ template, schema string }{
	"checkout-source":     {"checkout", "checkout-source"},
	"containerfile-build": {"build-image", "containerfile-build"},
	"publish-image":       {"publish-image", "publish-image"},
	"generate-workload":   {"generate-workload-cr", "generate-workload-cr"},

	"gcp-buildpacks-build":      {"build-image", buildpacksBuild},
	"paketo-buildpacks-build":   {"build-image", buildpacksBuild},
	"ballerina-buildpack-build": {"build-image", buildpacksBuild},
}

// buildpacksBuild is the step that runs in the image of a builder, as the builder's user, brought there by an init
// container.
const buildpacksBuild = "buildpacks-build"

// builderUsers are the users of builders' images, runAsUser and runAsGroup.
var builderUsers = map[string][2]int{"gcp-buildpacks-build": {1000, 1000}, "paketo-buildpacks-build": {1001, 1000},
	"ballerina-buildpack-build": {1000, 1000}}

// workflowParameterNames are all the parameters of a Workflow that a template may count on (contract section 1).
var workflowParameterNames = []string{
	"component-name", "project-name", "workflowrun-name", "namespace-name", "git-repo", "branch", "commit",
	"app-path", "docker-context",
	"dockerfile-path", "build-env", "build-args", "image-name", "image-tag", "git-secret", "registry-push-secret",
}

const (
	deadline   = "active-deadline-seconds"
	tokenPath  = "/var/run/secrets/kubernetes.io/serviceaccount"
	resultsDir = "/tmp/results/"
)

// Security contexts as JSON: whatever else a template says is a fault.
const (
	podSecurity = `{"runAsNonRoot":true,"runAsUser":1000,"runAsGroup":1000,"fsGroup":1000,` +
		`"seccompProfile":{"type":"RuntimeDefault"}}`
	restricted = `{"privileged":false,"allowPrivilegeEscalation":false,"readOnlyRootFilesystem":true,` +
		`"runAsNonRoot":true,"runAsUser":1000,"capabilities":{"drop":["ALL"]}}`
	// argoContainers patches Argo's own containers, which say nothing of their security otherwise.
	argoContainers = `"initContainers":[{"name":"init","securityContext":{"allowPrivilegeEscalation":false,` +
		`"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]}}}],` +
		`"containers":[{"name":"wait","securityContext":{"allowPrivilegeEscalation":false,` +
		`"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]}}}]}`
	// userNamespace is what BuildKit needs inside of the step.
	userNamespace = `{"privileged":false,"allowPrivilegeEscalation":true,"readOnlyRootFilesystem":true,` +
		`"runAsNonRoot":true,"runAsUser":1000,"capabilities":{"drop":["ALL"],"add":["SETUID","SETGID"]},` +
		`"seccompProfile":{"type":"Unconfined"},"appArmorProfile":{"type":"Unconfined"}}`
	// profiled is userNamespace with the project's seccomp profile.
	profiled = `{"privileged":false,"allowPrivilegeEscalation":true,"readOnlyRootFilesystem":true,` +
		`"runAsNonRoot":true,"runAsUser":1000,"capabilities":{"drop":["ALL"],"add":["SETUID","SETGID"]},` +
		`"seccompProfile":{"type":"Localhost","localhostProfile":"stepwright/buildkit.json"}}`
)

// rules say what an installation may allow beyond the default.
type rules struct {
	buildSecurity string   // of the build's container, as JSON
	hostUsers     bool     // whether pods may have user namespaces of Kubernetes
	anonymous     []string // the Secrets of registries that are used without credentials
}

var byDefault = rules{buildSecurity: userNamespace}

// faults collects what is wrong, each with its file and field.
type faults struct {
	file string
	all  []string
}

func (f *faults) add(field, format string, args ...any) {
	f.all = append(f.all, fmt.Sprintf("%s: %s: %s", f.file, field, fmt.Sprintf(format, args...)))
}

var reference = regexp.MustCompile(`^{{(workflow|inputs)\.parameters\.([a-z-]+)}}$`)

// lintTemplate lists what is wrong with a ClusterWorkflowTemplate.
func lintTemplate(file string, object map[string]any, r rules) []string {
	f := &faults{file: file}
	cluster, err := convert[wfv1.ClusterWorkflowTemplate](object)
	if err != nil {
		f.add("spec", "%v", err)
		return f.all
	}
	if err := validate.ValidateClusterWorkflowTemplate(argoContext(), nil, nil, &cluster, nil, validate.ValidateOpts{
		Lint: true,
	}); err != nil {
		f.add("spec", "Argo: %v", err)
	}
	contract, known := steps[cluster.Name]
	if !known {
		f.add("metadata.name", "%q is not in the contract", cluster.Name)
		return f.all
	}
	if cluster.Labels["app.kubernetes.io/version"] == "" {
		f.add("metadata.labels", "app.kubernetes.io/version is absent")
	}
	for _, word := range []string{"retryStrategy", "hostNetwork", "hostPID", "hostPath", "serviceAccountName"} {
		if path := holds(object, word); path != "" {
			f.add(path, "is not allowed")
		}
	}
	if len(cluster.Spec.Templates) != 1 || cluster.Spec.Templates[0].Name != contract.template {
		f.add("spec.templates", "must be one template named %s", contract.template)
		return f.all
	}
	template := cluster.Spec.Templates[0]
	const at = "spec.templates[0]."
	inits := 0
	if contract.schema == buildpacksBuild {
		inits = 2
	}
	if template.Container == nil || template.Script != nil || len(template.Sidecars) > 0 ||
		len(template.InitContainers) != inits {
		f.add(
			at+"container",
			"must be there, and no script, sidecar, or init container but those that bring a step into a builder's "+
				"image",
		)
		return f.all
	}
	lintPatch(f, at+"podSpecPatch", template.PodSpecPatch, r)
	if template.ActiveDeadlineSeconds == nil ||
		template.ActiveDeadlineSeconds.String() != "{{inputs.parameters."+deadline+"}}" {
		f.add(at+"activeDeadlineSeconds", "must be the input parameter %s", deadline)
	}
	lintParameters(f, template, schemas.MustLoad(contract.schema))
	lintContainer(f, cluster.Name, template, contract.schema, r)
	lintInitContainers(f, cluster.Name, template)
	lintVolumes(f, template, r)
	return f.all
}

// lintPatch wants Argo's own containers to keep to the restricted Pod Security Standard, and nothing else but user
// namespaces if they may be.
func lintPatch(f *faults, field, patch string, r rules) {
	want := []string{"{" + argoContainers}
	if r.hostUsers {
		want = append(want, `{"hostUsers":false,`+argoContainers)
	}
	raw, err := yaml.YAMLToJSON([]byte(patch))
	if err != nil {
		f.add(field, "%v", err)
		return
	}
	for _, w := range want {
		if equalJSON(string(raw), w) {
			return
		}
	}
	f.add(field, "is %s, want %s", raw, want[0])
}

func equalJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// holds finds a key at any depth; empty when it is absent.
func holds(v any, key string) string {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if k == key {
				return k
			}
			if path := holds(v[k], key); path != "" {
				return k + "." + path
			}
		}
	case []any:
		for i := range v {
			if path := holds(v[i], key); path != "" {
				return fmt.Sprintf("[%d].%s", i, path)
			}
		}
	}
	return ""
}

// lintParameters holds inputs, variables and outputs against the step's schema.
func lintParameters(f *faults, template wfv1.Template, schema *schemas.Schema) {
	property := func(name string) *schemas.Property {
		i := slices.IndexFunc(schema.Properties, func(p *schemas.Property) bool { return p.Name == name })
		if i < 0 {
			return nil
		}
		return schema.Properties[i]
	}
	inputs := map[string]bool{}
	for _, p := range template.Inputs.Parameters {
		field := "spec.templates[0].inputs.parameters[" + p.Name + "]"
		inputs[p.Name] = false
		if p.Name == deadline {
			continue
		}
		described := property(p.Name)
		if described == nil {
			f.add(field, "schema %s has no such property", schema.Name)
			continue
		}
		if p.Default == nil || p.Default.String() == "" {
			continue
		}
		var value any = p.Default.String()
		if described.Type != "string" {
			if err := json.Unmarshal([]byte(p.Default.String()), &value); err != nil {
				f.add(field+".default", "is no %s: %v", described.Type, err)
				continue
			}
		}
		for _, fault := range schema.Validate(map[string]any{p.Name: value}) {
			if len(fault.Path) > 0 && fault.Path[0] == p.Name && fault.Message != "is required" {
				f.add(field+".default", "%s", fault)
			}
		}
	}
	given := map[string]bool{}
	variables := slices.Clone(template.Container.Env)
	for _, c := range template.InitContainers {
		variables = append(variables, c.Env...)
	}
	for _, v := range variables {
		field := "spec.templates[0].container.env[" + v.Name + "]"
		if v.Name != "HOME" {
			name := strings.ReplaceAll(strings.ToLower(v.Name), "_", "-")
			given[name] = true
			if property(name) == nil {
				f.add(field, "schema %s has no property %s", schema.Name, name)
			}
		}
		if v.ValueFrom != nil {
			f.add(field, "must be a value")
		}
		if !strings.Contains(v.Value, "{{") {
			continue
		}
		m := reference.FindStringSubmatch(v.Value)
		switch {
		case m == nil:
			f.add(field, "%s must be one parameter and nothing else", v.Value)
		case m[1] == "workflow" && !slices.Contains(workflowParameterNames, m[2]):
			f.add(field, "the contract has no workflow parameter %s", m[2])
		case m[1] == "inputs":
			inputs[m[2]] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inputs)) {
		if !inputs[name] && name != deadline {
			f.add("spec.templates[0].inputs.parameters["+name+"]", "is not used by any variable")
		}
	}
	for _, p := range schema.Properties {
		if p.Required && !given[p.Name] {
			f.add("spec.templates[0].container.env", "%s, which the step requires, is absent", p.Name)
		}
	}
	for _, p := range template.Outputs.Parameters {
		if p.ValueFrom == nil || p.ValueFrom.Path != resultsDir+p.Name || p.ValueFrom.Default == nil {
			f.add("spec.templates[0].outputs.parameters["+p.Name+
				"]", "must be read from %s%s and have a default", resultsDir, p.Name)
		}
	}
}

func lintContainer(f *faults, name string, template wfv1.Template, step string, r rules) {
	const at = "spec.templates[0].container."
	c := template.Container
	program := "/usr/local/bin/" + step
	if step == buildpacksBuild {
		program = "/opt/stepwright/" + step
	}
	if want := []string{program}; !slices.Equal(c.Command, want) {
		f.add(at+"command", "is %q, want %q", c.Command, want)
	}
	if len(c.Args) > 0 {
		f.add(at+"args", "must be absent: parameters are variables")
	}
	if fault := pinned(c.Image); fault != "" {
		f.add(at+"image", "%s %s", c.Image, fault)
	}
	if step == buildpacksBuild && !strings.Contains(c.Image, "@sha256:") {
		f.add(at+"image", "%s has no digest", c.Image)
	}
	lintResources(f, at, c.Resources)
	want := restricted
	if step == "containerfile-build" {
		want = cmp.Or(r.buildSecurity, restricted)
	}
	if fault := differs(c.SecurityContext, asUser(want, name)); fault != "" {
		f.add(at+"securityContext", "%s", fault)
	}
	if fault := differs(template.SecurityContext, asUser(podSecurity, name)); fault != "" {
		f.add("spec.templates[0].securityContext", "%s", fault)
	}
}

// asUser is a security context with the user that a template runs as.
func asUser(context, template string) string {
	user, ok := builderUsers[template]
	if !ok {
		return context
	}
	return strings.NewReplacer(
		`"runAsUser":1000`, fmt.Sprintf(`"runAsUser":%d`, user[0]), `"runAsGroup":1000`,
		fmt.Sprintf(`"runAsGroup":%d`, user[1]),
	).Replace(
		context,
	)
}

func lintResources(f *faults, at string, r corev1.ResourceRequirements) {
	for kind, list := range map[string]map[string]bool{"requests": names(r.Requests), "limits": names(r.Limits)} {
		for _, name := range []string{"cpu", "memory", "ephemeral-storage"} {
			if !list[name] {
				f.add(at+"resources."+kind+"."+name, "is absent")
			}
		}
	}
}

// lintInitContainers holds the containers that bring the step into a builder's image against what they may be.
// Credentials are in the one that fetches, and nowhere else.
func lintInitContainers(f *faults, name string, template wfv1.Template) {
	commands := [][]string{{"/usr/local/bin/" + buildpacksBuild, "install", "/opt/stepwright"},
		{"/usr/local/bin/" + buildpacksBuild, "fetch"}}
	for i, c := range template.InitContainers {
		at := fmt.Sprintf("spec.templates[0].initContainers[%d].", i)
		if want := commands[i]; !slices.Equal(c.Command, want) || len(c.Args) > 0 {
			f.add(at+"command", "is %q, want %q", append(c.Command, c.Args...), want)
		}
		if fault := pinned(c.Image); fault != "" || !strings.Contains(c.Image, "/"+buildpacksBuild+":") {
			f.add(at+"image", "%s is not the step's, or %s", c.Image, cmp.Or(fault, "of another version"))
		}
		lintResources(f, at, c.Resources)
		if fault := differs(c.SecurityContext, asUser(restricted, name)); fault != "" {
			f.add(at+"securityContext", "%s", fault)
		}
		if !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
			f.add(at+"volumeMounts", "an emptyDir must be at %s", tokenPath)
		}
	}
	if len(template.InitContainers) == 0 {
		return
	}
	for _, m := range template.Container.VolumeMounts {
		if i := slices.IndexFunc(template.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name
		}); i >= 0 && template.Volumes[i].Secret != nil {
			f.add("spec.templates[0].container.volumeMounts["+m.Name+"]", "is a Secret, where buildpacks run")
		}
	}
}

func names(list corev1.ResourceList) map[string]bool {
	all := map[string]bool{}
	for name, quantity := range list {
		all[string(name)] = !quantity.IsZero()
	}
	return all
}

// pinned tells what is wrong with an image's reference.
func pinned(image string) string {
	name := image[strings.LastIndexByte(image, '/')+1:]
	_, tag, tagged := strings.Cut(name, ":")
	switch {
	case strings.Contains(image, "{{"):
		return "is not fixed"
	case strings.Contains(name, "@sha256:"):
		return ""
	case !tagged || strings.HasPrefix(tag, "latest"):
		return "has no tag or digest that stays"
	}
	return ""
}

// differs compares a security context with what it must be.
func differs(got any, want string) string {
	raw, err := json.Marshal(got)
	if err != nil {
		return err.Error()
	}
	var a, b map[string]any
	if err := json.Unmarshal(raw, &a); err != nil {
		return err.Error()
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		return err.Error()
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if !reflect.DeepEqual(a[k], b[k]) {
			return fmt.Sprintf("%s is %v, want %v", k, a[k], b[k])
		}
		delete(a, k)
	}
	if len(a) > 0 {
		return fmt.Sprintf("%v is not allowed", slices.Sorted(maps.Keys(a)))
	}
	return ""
}

func lintVolumes(f *faults, template wfv1.Template, r rules) {
	mounts := map[string]string{}
	for _, m := range template.Container.VolumeMounts {
		mounts[m.MountPath] = m.Name
		if m.Name != "workspace" && !slices.ContainsFunc(template.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name
		}) {
			f.add("spec.templates[0].container.volumeMounts["+m.Name+"]", "there is no such volume")
		}
	}
	if mounts["/mnt/vol"] != "workspace" {
		f.add("spec.templates[0].container.volumeMounts", "the workspace must be at /mnt/vol")
	}
	if mounts["/tmp"] == "" {
		f.add(
			"spec.templates[0].container.volumeMounts",
			"there must be a volume at /tmp: the root file system is read-only",
		)
	}
	hidden := false
	for _, v := range template.Volumes {
		field := "spec.templates[0].volumes[" + v.Name + "]"
		switch {
		case v.EmptyDir != nil:
			hidden = hidden || mounts[tokenPath] == v.Name
			if v.EmptyDir.SizeLimit == nil {
				f.add(field+".emptyDir.sizeLimit", "is absent")
			}
		case v.Secret != nil:
			// A Git secret is absent where the repository is public; the step knows when it has to wait.
			optional := v.Secret.Optional != nil && *v.Secret.Optional
			if may := v.Name == "git-secret" || slices.Contains(r.anonymous, v.Name); optional != may {
				f.add(field+".secret.optional", "is %t: a pod must not start before the Secret it needs", optional)
			}
		case v.ConfigMap == nil:
			f.add(field, "must be an emptyDir, a Secret or a ConfigMap")
		}
	}
	if !hidden {
		f.add(
			"spec.templates[0].container.volumeMounts",
			"an emptyDir must be at %s, to keep the service account's token out", tokenPath,
		)
	}
}

func argoContext() context.Context {
	return logging.WithLogger(context.Background(), logging.NewSlogLogger(logging.Error, logging.Text))
}

// build runs kustomize on a folder under templates.
func build(t *testing.T, dir string) []map[string]any {
	t.Helper()
	result, err := kustomization.Build(filepath.Join(templates, dir))
	if err != nil {
		t.Fatal(err)
	}
	var objects []map[string]any
	for _, r := range result.Resources() {
		raw, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var object map[string]any
		if err := yaml.Unmarshal(raw, &object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatalf("%s: is empty", dir)
	}
	return objects
}

// fileOf is where an object comes from.
func fileOf(object map[string]any) string {
	return "templates/workflow-plane/" + at(object, "metadata", "name").(string) + ".yaml"
}

func ofKind(objects []map[string]any, kind string) []map[string]any {
	return slices.DeleteFunc(slices.Clone(objects), func(o map[string]any) bool { return o["kind"] != kind })
}

func TestTemplates(t *testing.T) {
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

// What the files say is what the settings say: a file is what it looks like, whichever way it is installed.
func TestFilesHoldTheSettings(t *testing.T) {
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

// containers are those of a ClusterWorkflowTemplate; none of another object.
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
	found := regexp.MustCompile(`(?m)^## (\d+\.\d+\.\d+)`).FindSubmatch(readFile(t, "../../CHANGELOG.md"))
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
	container := []any{"spec", "templates", 0, "container"}
	in := func(more ...any) []any { return append(slices.Clone(container), more...) }
	template := func(more ...any) []any { return append([]any{"spec", "templates", 0}, more...) }
	tests := []struct {
		name, template string
		path           []any
		value          any
		want           string // of a fault, after the file
	}{
		{"an unknown field", "publish-image", in("securityContex"), map[string]any{}, `spec: error unmarshaling JSON`},
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
		{"a Secret that may come late", "publish-image", template("volumes", 0, "secret", "optional"), true,
			`spec.templates[0].volumes[registry-push-secret].secret.optional: is true`},
		{"a Git secret that public repositories lack", "checkout-source", template("volumes", 0, "secret", "optional"),
			false, `spec.templates[0].volumes[git-secret].secret.optional: is false`},
		{"the node's files", "publish-image", template("volumes", 2),
			map[string]any{"name": "ca-bundle", "hostPath": map[string]any{"path": "/"}},
			`spec.templates.[0].volumes.[2].hostPath: is not allowed`},
		{"a volume without an end", "publish-image", template("volumes", 3, "emptyDir"), map[string]any{},
			`spec.templates[0].volumes[tmp].emptyDir.sizeLimit: is absent`},
		{"the token in the container", "publish-image", in("volumeMounts", 5, "mountPath"), "/var/run/secrets",
			`spec.templates[0].container.volumeMounts: an emptyDir must be at ` +
				`/var/run/secrets/kubernetes.io/serviceaccount`},
		{"an init container of a step that needs none", "publish-image", template("initContainers"),
			[]any{map[string]any{"name": "a", "image": "a:1", "command": []any{"a"}}},
			`spec.templates[0].container: must be there, and no script`},
		{"another init container", "gcp-buildpacks-build", template("initContainers", 1, "command"),
			[]any{"/usr/local/bin/buildpacks-build", "sh"}, `spec.templates[0].initContainers[1].command: is [`},
		{"arguments of an init container", "gcp-buildpacks-build", template("initContainers", 1, "args"),
			[]any{"{{workflow.parameters.app-path}}"}, `spec.templates[0].initContainers[1].command: is [`},
		{"another image in front", "gcp-buildpacks-build", template("initContainers", 0, "image"), "busybox:1",
			`spec.templates[0].initContainers[0].image: busybox:1 is not the step's`},
		{"root in front", "gcp-buildpacks-build", template("initContainers", 0, "securityContext", "runAsUser"), 0,
			`spec.templates[0].initContainers[0].securityContext: runAsUser is 0`},
		{"another user than the builder's", "paketo-buildpacks-build", template("securityContext", "runAsUser"), 1000,
			`spec.templates[0].securityContext: runAsUser is 1000, want 1001`},
		{"a builder by tag", "gcp-buildpacks-build", in("image"), "gcr.io/buildpacks/builder:v1",
			`spec.templates[0].container.image: gcr.io/buildpacks/builder:v1 has no digest`},
		{"credentials where buildpacks run", "gcp-buildpacks-build", in("volumeMounts", 2, "name"),
			"registry-pull-secret",
			`spec.templates[0].container.volumeMounts[registry-pull-secret]: is a Secret, where buildpacks run`},
		{"the token in front", "gcp-buildpacks-build", template("initContainers", 1, "volumeMounts", 4, "mountPath"),
			"/token", `spec.templates[0].initContainers[1].volumeMounts: an emptyDir must be at`},
		{"no /tmp", "publish-image", in("volumeMounts", 4, "mountPath"), "/temp",
			`spec.templates[0].container.volumeMounts: there must be a volume at /tmp`},
		{"another workspace", "publish-image", in("volumeMounts", 0, "mountPath"), "/workspace",
			`spec.templates[0].container.volumeMounts: the workspace must be at /mnt/vol`},
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

// getters give Argo's validator the templates of the project.
type getters map[string]*wfv1.ClusterWorkflowTemplate

func (g getters) Get(_ context.Context, name string) (*wfv1.ClusterWorkflowTemplate, error) {
	if template := g[name]; template != nil {
		return template, nil
	}
	return nil, fmt.Errorf("there is no ClusterWorkflowTemplate %q", name)
}

func clusterWorkflowTemplates(t *testing.T) getters {
	t.Helper()
	all := getters{}
	for _, object := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		template, err := convert[wfv1.ClusterWorkflowTemplate](object)
		if err != nil {
			t.Fatal(err)
		}
		all[template.Name] = &template
	}
	return all
}

// ordinary is a run that a developer would make.
func ordinary() run {
	return run{
		labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
		parameters: map[string]any{
			"repository": map[string]any{
				"url":       "https://git.example.com/acme/cart.git",
				"secretRef": "git-credentials",
			},
		},
		externalRefs: gitCredentials,
	}
}

// lintClusterWorkflow lists what is wrong with a ClusterWorkflow.
func lintClusterWorkflow(t *testing.T, file string, object map[string]any, templates getters) []string {
	t.Helper()
	f := &faults{file: file}
	for _, fault := range againstCRD(t, object) {
		f.all = append(f.all, file+": "+fault)
	}
	for _, key := range []string{"openchoreo.dev/workflow-type", "app.kubernetes.io/version"} {
		if at(object, "metadata", "labels", key) == nil {
			f.add("metadata.labels", "%s is absent", key)
		}
	}
	if at(object, "metadata", "annotations", "openchoreo.dev/description") == nil {
		f.add("metadata.annotations", "openchoreo.dev/description is absent")
	}
	for _, word := range []string{"retryStrategy", "ttlStrategy", "podSpecPatch", "script"} {
		if path := holds(at(object, "spec", "runTemplate"), word); path != "" {
			f.add("spec.runTemplate."+path, "is not allowed")
		}
	}
	spec, _ := object["spec"].(map[string]any)
	namespaces := map[string]any{
		"spec.runTemplate.metadata.namespace": at(spec, "runTemplate", "metadata", "namespace"),
	}
	resources, _ := at(spec, "resources").([]any)
	for i, r := range resources {
		namespaces[fmt.Sprintf(
			"spec.resources[%d].template.metadata.namespace", i,
		)] = at(r, "template", "metadata", "namespace")
	}
	for field, namespace := range namespaces {
		if namespace != "${metadata.namespace}" {
			f.add(field, "is %v, want ${metadata.namespace}", namespace)
		}
	}
	rendered, _, err := renderRun(object, ordinary())
	if failure, ok := errors.AsType[*render.Error](err); ok {
		f.add(objects.Field(failure.Path), "%v", failure.Err)
		return f.all
	}
	if err != nil {
		f.add("spec", "%v", err)
		return f.all
	}
	lintWorkflow(f, rendered, templates)
	return f.all
}

// lintWorkflow holds a rendered Workflow against Argo's validator and the templates that it refers to.
func lintWorkflow(f *faults, rendered map[string]any, templates getters) {
	workflow, err := convert[wfv1.Workflow](rendered)
	if err != nil {
		f.add("spec.runTemplate", "%v", err)
		return
	}
	if err := validate.ValidateWorkflow(
		argoContext(), nil, templates, &workflow, nil, validate.ValidateOpts{},
	); err != nil {
		f.add("spec.runTemplate.spec", "Argo: %v", err)
	}
	var given []string
	for _, p := range workflow.Spec.Arguments.Parameters {
		given = append(given, p.Name)
	}
	dockerfile := slices.ContainsFunc(workflow.Spec.Templates[0].Steps, func(group wfv1.ParallelSteps) bool {
		return slices.ContainsFunc(group.Steps, func(s wfv1.WorkflowStep) bool {
			return s.TemplateRef != nil && s.TemplateRef.Name == "containerfile-build"
		})
	})
	for _, name := range workflowParameterNames {
		if ofDockerfile := slices.Contains([]string{
			"docker-context", "dockerfile-path", "build-args",
		}, name); ofDockerfile && !dockerfile {
			continue
		}
		if !slices.Contains(given, name) {
			f.add("spec.runTemplate.spec.arguments.parameters", "%s, which templates count on, is absent", name)
		}
	}
	for i, group := range workflow.Spec.Templates[0].Steps {
		field := fmt.Sprintf("spec.runTemplate.spec.templates[0].steps[%d]", i)
		if len(group.Steps) != 1 {
			f.add(field, "has %d steps: parallel ones are shown in any order", len(group.Steps))
		}
		for _, step := range group.Steps {
			if step.TemplateRef == nil || templates[step.TemplateRef.Name] == nil {
				continue // Argo's validator has said so
			}
			if step.Name != step.TemplateRef.Name && step.Name != steps[step.TemplateRef.Name].template {
				f.add(field, "is named %s, and shown so", step.Name)
			}
			template := templates[step.TemplateRef.Name].GetTemplateByName(step.TemplateRef.Template)
			if template == nil {
				continue
			}
			for _, p := range step.Arguments.Parameters {
				if template.Inputs.GetParameterByName(p.Name) == nil {
					f.add(field, "%s has no parameter %s", step.TemplateRef.Name, p.Name)
				}
			}
		}
	}
}

var openchoreoModule = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	return strings.TrimSpace(string(out)), err
})

// againstCRD holds an object against OpenChoreo's own definition of its kind.
func againstCRD(t *testing.T, object map[string]any) []string {
	t.Helper()
	dir, err := openchoreoModule()
	if err != nil {
		t.Fatal(err)
	}
	kind, _ := object["kind"].(string)
	paths, err := filepath.Glob(filepath.Join(dir, "config", "crd", "bases", "openchoreo.dev_"+strings.ToLower(kind)+
		"s.yaml"))
	if err != nil || len(paths) != 1 {
		return []string{fmt.Sprintf("kind: OpenChoreo has no %q (%v)", kind, err)}
	}
	raw := readFile(t, paths[0])
	var definition apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(raw, &definition); err != nil {
		t.Fatal(err)
	}
	var schema apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(
		definition.Spec.Versions[0].Schema.OpenAPIV3Schema, &schema, nil,
	); err != nil {
		t.Fatal(err)
	}
	validator, _, err := validation.NewSchemaValidator(&schema)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, fault := range validation.ValidateCustomResource(nil, object, validator) {
		found = append(found, fault.Error())
	}
	s, err := structural.NewStructural(&schema)
	if err != nil {
		t.Fatal(err)
	}
	copied := clone(object).(map[string]any)
	for _, path := range pruning.PruneWithOptions(copied, s, true, structural.UnknownFieldPathOptions{
		TrackUnknownFieldPaths: true,
	}) {
		found = append(found, path+": OpenChoreo knows no such field")
	}
	return found
}

func TestClusterWorkflows(t *testing.T) {
	templates := clusterWorkflowTemplates(t)
	for _, object := range ofKind(build(t, "control-plane"), "ClusterWorkflow") {
		for _, fault := range lintClusterWorkflow(t, "templates/control-plane/"+
			at(object, "metadata", "name").(string)+".yaml", object, templates) {
			t.Error(fault)
		}
	}
}

func TestClusterWorkflowsThatBreakARule(t *testing.T) {
	workflow := func(more ...any) []any { return append([]any{"spec", "runTemplate", "spec"}, more...) }
	step := func(i int, more ...any) []any { return append(workflow("templates", 0, "steps", i, 0), more...) }
	tests := []struct {
		name  string
		path  []any
		value any
		want  string
	}{
		{"an unknown field", []any{"spec", "runTemplat"}, map[string]any{},
			"spec.runTemplat: OpenChoreo knows no such field"},
		{"a field of the wrong type", []any{"spec", "ttlAfterCompletion"}, 5, "spec.ttlAfterCompletion: Invalid value"},
		{"another kind", []any{"kind"}, "ClusterWorkflo", `kind: OpenChoreo has no "ClusterWorkflo"`},
		{"no type", []any{"metadata", "labels"}, map[string]any{},
			"metadata.labels: openchoreo.dev/workflow-type is absent"},
		{"no description", []any{"metadata", "annotations"}, map[string]any{},
			"metadata.annotations: openchoreo.dev/description is absent"},
		{"another namespace", []any{"spec", "resources", 1, "template", "metadata", "namespace"}, "default",
			"spec.resources[1].template.metadata.namespace: is default"},
		{"retries of Argo", workflow("templates", 0, "retryStrategy"), map[string]any{},
			"spec.runTemplate.spec.templates.[0].retryStrategy: is not allowed"},
		{"an expression that does not compile", workflow("entrypoint"), "${metadata.name.}",
			"spec.runTemplate.spec.entrypoint: ${metadata.name.}: "},
		{"an expression that fails", workflow("entrypoint"), "${parameters.nothing}",
			"spec.runTemplate.spec.entrypoint: ${parameters.nothing}: no such key"},
		{"a template that is not there", step(1, "templateRef", "name"), "kaniko",
			`spec.runTemplate.spec: Argo: templates.build-workflow.steps[1].containerfile-build`},
		{"an argument that the template lacks", step(1, "arguments", "parameters", 0, "name"), "env",
			"spec.runTemplate.spec.templates[0].steps[1]: containerfile-build has no parameter env"},
		{"a parameter that the template requires", step(2, "arguments", "parameters"), []any{},
			`spec.runTemplate.spec: Argo: templates.build-workflow.steps[2].publish-image`},
		{"another name of a step", step(1, "name"), "build",
			"spec.runTemplate.spec.templates[0].steps[1]: is named build, and shown so"},
		{"a workflow parameter that templates count on", workflow("arguments", "parameters", 0, "name"), "component",
			"spec.runTemplate.spec.arguments.parameters: component-name, which templates count on, is absent"},
		{"an unknown field of Argo", workflow("entrypoin"), "x", "spec.runTemplate: error unmarshaling JSON"},
	}
	templates := clusterWorkflowTemplates(t)
	object := ofKind(build(t, "control-plane"), "ClusterWorkflow")[0]
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			broken := clone(object).(map[string]any)
			set(t, broken, test.value, test.path...)
			const file = "templates/" + dockerfileBuilder
			got := lintClusterWorkflow(t, file, broken, templates)
			if !slices.ContainsFunc(got, func(fault string) bool {
				return strings.HasPrefix(fault, file) && strings.Contains(fault, test.want)
			}) {
				t.Errorf("got %q, want one with %q", got, test.want)
			}
		})
	}
}

// OpenChoreo's own dockerfile-builder runs on the templates here, since they keep every name.
func TestTheReferencesClusterWorkflowRunsOnOurTemplates(t *testing.T) {
	dir, err := openchoreoModule()
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]any
	if err := yaml.Unmarshal(
		readFile(t, filepath.Join(dir, "samples/getting-started/ci-workflows/dockerfile-builder.yaml")), &object,
	); err != nil {
		t.Fatal(err)
	}
	rendered, _, err := renderRun(object, ordinary())
	if err != nil {
		t.Fatal(err)
	}
	workflow, err := convert[wfv1.Workflow](rendered)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.ValidateWorkflow(
		argoContext(), nil, clusterWorkflowTemplates(t), &workflow, nil, validate.ValidateOpts{},
	); err != nil {
		t.Error(err)
	}
}

// The examples are what OpenChoreo takes, and their parameters what the builder takes.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, path := range files {
		var object map[string]any
		if err := yaml.Unmarshal(readFile(t, path), &object); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		kind, _ := object["kind"].(string)
		if kind != "WorkflowRun" && kind != "Component" {
			continue
		}
		checked++
		for _, fault := range againstCRD(t, object) {
			t.Errorf("%s: %s", path, fault)
		}
		if kind == "Component" && at(object, "spec", "workflow") == nil {
			continue // another CI builds it
		}
		workflow, _ := at(object, "spec", "workflow", "name").(string)
		schema, err := schemas.Load(workflow)
		if err != nil {
			t.Errorf("%s: spec.workflow.name: %v", path, err)
			continue
		}
		for _, fault := range schema.Validate(at(object, "spec", "workflow", "parameters")) {
			t.Errorf("%s: spec.workflow.parameters.%s", path, fault)
		}
	}
	if checked < 2 {
		t.Error("there are no examples")
	}
}
