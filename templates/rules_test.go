package templates_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/schemas"
	"github.com/stepwright/stepwright/templates"
)

// steps are the ClusterWorkflowTemplates by name (docs/contract.md section 1): their template, their step's schema, and
// the builder of buildpacks that runs the step; nil where none does.
var steps = func() map[string]step {
	all := map[string]step{
		"checkout-source":     {"checkout", "checkout-source", nil},
		"containerfile-build": {"build-image", "containerfile-build", nil},
		"scan-gate":           {"scan-gate", scanGate, nil},
		"publish-image":       {"publish-image", "publish-image", nil},
		"generate-workload":   {"generate-workload-cr", "generate-workload-cr", nil},
		"commit-status":       {"commit-status", "commit-status", nil},
	}
	for _, b := range templates.Builders() {
		all[b.Template] = step{"build-image", buildpacksBuild, &b}
	}
	return all
}()

type step struct {
	template, schema string
	builder          *templates.Builder
}

// buildpacksBuild is the step that runs in the image of a builder, as the builder's user, brought there by an init
// container.
const buildpacksBuild = "buildpacks-build"

// scanGate is the step that runs a check in the image of the platform's choice, brought there by an init container.
const scanGate = "scan-gate"

// workflowParameterNames are all the parameters of a Workflow that a template may count on (docs/contract.md section
// 1).
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

// Security contexts as JSON. Any other field or value in a template is a fault.
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
	// userNamespace allows the user namespace that BuildKit makes inside the step.
	userNamespace = `{"privileged":false,"allowPrivilegeEscalation":true,"readOnlyRootFilesystem":true,` +
		`"runAsNonRoot":true,"runAsUser":1000,"capabilities":{"drop":["ALL"],"add":["SETUID","SETGID"]},` +
		`"seccompProfile":{"type":"Unconfined"},"appArmorProfile":{"type":"Unconfined"}}`
	// profiled is userNamespace with the project's seccomp profile.
	profiled = `{"privileged":false,"allowPrivilegeEscalation":true,"readOnlyRootFilesystem":true,` +
		`"runAsNonRoot":true,"runAsUser":1000,"capabilities":{"drop":["ALL"],"add":["SETUID","SETGID"]},` +
		`"seccompProfile":{"type":"Localhost","localhostProfile":"stepwright/buildkit.json"}}`
)

// unmasked is a security context with all of /proc, which Kubernetes allows in a user namespace of its own only.
func unmasked(context string) string {
	return strings.TrimSuffix(context, "}") + `,"procMount":"Unmasked"}`
}

// rules are the freedoms of an installation beyond the default.
type rules struct {
	buildSecurity string   // of the build's container, as JSON
	hostUsers     bool     // whether pods may have user namespaces of Kubernetes
	anonymous     []string // the Secrets that are not needed: a registry or a client goes without
}

var byDefault = rules{buildSecurity: userNamespace}

// faults collects faults, each with its file and field.
type faults struct {
	file string
	all  []string
}

func (f *faults) add(field, format string, args ...any) {
	f.all = append(f.all, fmt.Sprintf("%s: %s: %s", f.file, field, fmt.Sprintf(format, args...)))
}

var reference = regexp.MustCompile(`^{{(workflow|inputs)\.parameters\.([a-z-]+)}}$`)

// ofArgo are what Argo itself knows of a workflow, which nobody types.
var ofArgo = []string{"{{workflow.uid}}", "{{workflow.creationTimestamp}}"}

// ofTraces are the variables of the component observability (steps/internal/trace), which are no parameters of a step,
// and their values; empty where it is a setting.
var ofTraces = map[string]string{
	"OTEL_EXPORTER_OTLP_ENDPOINT": "",
	"OTEL_RESOURCE_ATTRIBUTES": "stepwright.namespace={{workflow.parameters.namespace-name}}," +
		"stepwright.project={{workflow.parameters.project-name}}," +
		"stepwright.component={{workflow.parameters.component-name}}," +
		"cicd.pipeline.run.id={{workflow.parameters.workflowrun-name}}",
	"STEPWRIGHT_RUN_UID":           "{{workflow.uid}}",
	"STEPWRIGHT_RUN_START":         "{{workflow.creationTimestamp}}",
	"STEPWRIGHT_OTLP_HEADERS_FILE": "/etc/secrets/otlp/headers",
	"STEPWRIGHT_RUN_LAST":          "true",
	"STEPWRIGHT_RUN_ASIDE":         "",
	"STEPWRIGHT_PHASE":             "",
}

// lintTemplate lists the faults of a ClusterWorkflowTemplate.
func lintTemplate(file string, object map[string]any, r rules) []string {
	f := &faults{file: file}
	cluster, err := convert[wfv1.ClusterWorkflowTemplate](object)
	if err != nil {
		f.add("spec", "%v", err)
		return f.all
	}
	if err := validTemplate(&cluster); err != nil {
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
	if template.Container == nil || template.Script != nil || len(template.Sidecars) > 0 ||
		len(template.InitContainers) != len(inFront[contract.schema]) {
		f.add(
			at+"container",
			"must be there, and no script, sidecar, or init container but those that bring a step into another image",
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
	lintInitContainers(f, cluster.Name, contract.schema, template)
	lintVolumes(f, template, r)
	lintWorkspace(f, template, contract.schema)
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

// lintParameters checks inputs, variables and outputs by the step's schema.
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
		if want, of := ofTraces[v.Name]; of {
			if want != "" && v.Value != want {
				f.add(field, "is %s, want %s", v.Value, want)
			}
			if want != "" || v.Name == "OTEL_EXPORTER_OTLP_ENDPOINT" {
				continue
			}
		} else if v.Name != "HOME" {
			name := strings.ReplaceAll(strings.ToLower(v.Name), "_", "-")
			given[name] = true
			if property(name) == nil {
				f.add(field, "schema %s has no property %s", schema.Name, name)
			}
		}
		if v.ValueFrom != nil {
			f.add(field, "must be a value")
		}
		if !strings.Contains(v.Value, "{{") || slices.Contains(ofArgo, v.Value) {
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
	want := []string{"/usr/local/bin/" + step}
	switch step {
	case buildpacksBuild:
		want = []string{brought(step), "seal"}
	case scanGate:
		want = append(want, "decide")
	}
	if !slices.Equal(c.Command, want) {
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
	security := restricted
	if step == "containerfile-build" {
		security = cmp.Or(r.buildSecurity, restricted)
	}
	if fault := differs(c.SecurityContext, asUser(security, name)); fault != "" {
		f.add(at+"securityContext", "%s", fault)
	}
	if fault := differs(template.SecurityContext, asUser(podSecurity, name)); fault != "" {
		f.add("spec.templates[0].securityContext", "%s", fault)
	}
}

// asUser is a security context with the user that a template runs as.
func asUser(context, template string) string {
	builder := steps[template].builder
	if builder == nil {
		return context
	}
	return strings.NewReplacer(
		`"runAsUser":1000`, fmt.Sprintf(`"runAsUser":%d`, builder.Builder.User),
		`"runAsGroup":1000`, fmt.Sprintf(`"runAsGroup":%d`, builder.Builder.Group),
	).Replace(context)
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

// brought is a step's program where an init container puts it for containers of other images.
func brought(step string) string { return "/opt/stepwright/" + step }

// inFront are the commands of the init containers of steps that have some. The last one runs strangers' code, in an
// image that is not the step's.
var inFront = map[string][][]string{
	buildpacksBuild: {
		{"/usr/local/bin/" + buildpacksBuild, "install", "/opt/stepwright", "/var/stepwright/product"},
		{"/usr/local/bin/" + buildpacksBuild, "fetch"},
		{brought(buildpacksBuild), "build"},
	},
	scanGate: {
		{"/usr/local/bin/" + scanGate, "prepare", "/opt/stepwright"},
		{brought(scanGate), "check"},
	},
}

// lintInitContainers checks the containers that come before the one that says how a step ended. Credentials are in one
// that fetches, and nowhere else.
func lintInitContainers(f *faults, name, step string, template wfv1.Template) {
	for i, c := range template.InitContainers {
		at := fmt.Sprintf("spec.templates[0].initContainers[%d].", i)
		if want := inFront[step][i]; !slices.Equal(c.Command, want) || len(c.Args) > 0 {
			f.add(at+"command", "is %q, want %q", append(c.Command, c.Args...), want)
		}
		switch fault := pinned(c.Image); {
		case i == len(inFront[step])-1:
			switch image := template.Container.Image; {
			case step == scanGate && c.Image != "{{inputs.parameters.check-image}}":
				f.add(at+"image", "%s is not the input parameter check-image", c.Image)
			case step == buildpacksBuild && c.Image != image:
				f.add(at+"image", "%s is not the image that seals, %s", c.Image, image)
			}
			lintStrangers(f, at, &c.Container, template)
		case fault != "" || !strings.Contains(c.Image, "/"+step+":"):
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
	switch step {
	case buildpacksBuild:
		lintSeal(f, template)
	case scanGate:
		lintGate(f, template)
	}
}

// lintGate checks that what a check reads stays as it is, and that the container which decides has no Secret.
func lintGate(f *faults, template wfv1.Template) {
	for _, m := range template.Container.VolumeMounts {
		field := "spec.templates[0].container.volumeMounts[" + m.Name + "]"
		switch {
		case isSecret(template, m.Name):
			f.add(field, "is a Secret, where nothing needs one")
		case slices.Contains([]string{"workspace", "prepared", "handover", "check-results"}, m.Name) && !m.ReadOnly:
			f.add(field, "must be read-only")
		}
	}
	for _, m := range template.InitContainers[0].VolumeMounts {
		if m.Name == "workspace" && !m.ReadOnly {
			f.add("spec.templates[0].initContainers[0].volumeMounts[workspace]", "must be read-only")
		}
	}
}

// bindings is the volume of the Secret that a developer gives to the buildpacks of one build.
const bindings = "bindings"

// lintStrangers checks what a container that runs strangers' code has: of the workspace the source only, nothing that
// it could change there, no Secret but the developer's own bindings, and no volume to write to that another container
// believes.
func lintStrangers(f *faults, at string, c *corev1.Container, template wfv1.Template) {
	for _, m := range c.VolumeMounts {
		field := at + "volumeMounts[" + m.Name + "]"
		switch {
		case m.Name == "workspace":
			if m.SubPath != "source" && m.SubPath != "tree" || m.MountPath != "/mnt/vol/"+m.SubPath || !m.ReadOnly {
				f.add(field, "must be source or tree alone, read-only: strangers' code runs here")
			}
		case c.Name == "build" && m.Name == bindings && m.ReadOnly && isOfTheDeveloper(template):
		case isSecret(template, m.Name):
			f.add(field, "is a Secret, where strangers' code runs")
		case m.Name == "product":
			at := map[string]string{"application": "/workspace", "layers": "/layers"}
			if m.MountPath != at[m.SubPath] {
				f.add(field, "must be its application at /workspace or its layers at /layers")
			}
		case !m.ReadOnly && m.Name != "handover" && m.Name != "check-results":
			others := []*corev1.Container{template.Container}
			for i := range template.InitContainers {
				others = append(others, &template.InitContainers[i].Container)
			}
			for _, other := range others {
				if other.Name != c.Name && slices.ContainsFunc(other.VolumeMounts, func(o corev1.VolumeMount) bool {
					return o.Name == m.Name
				}) {
					f.add(field, "can be written to where strangers' code runs, and another container has it")
				}
			}
		}
	}
}

// lintSeal checks what the container has that makes the image of what buildpacks left: it believes nothing that they
// could write, and its results are on a volume that nothing else has.
func lintSeal(f *faults, template wfv1.Template) {
	const at = "spec.templates[0].container.volumeMounts"
	for _, m := range template.Container.VolumeMounts {
		field := at + "[" + m.Name + "]"
		switch {
		case m.Name == "workspace":
			if !slices.Contains([]string{"image", "cache", "sbom"}, m.SubPath) || m.MountPath != "/mnt/vol/"+m.SubPath {
				f.add(field, "must be image, cache or sbom alone")
			}
		case isSecret(template, m.Name):
			f.add(field, "is a Secret, where buildpacks run")
		case slices.Contains([]string{"fetched", "handover", "application", "step"}, m.Name) && !m.ReadOnly:
			f.add(field, "must be read-only")
		case strings.HasPrefix(resultsDir, m.MountPath+"/"):
			for i, c := range template.InitContainers {
				if slices.ContainsFunc(c.VolumeMounts, func(o corev1.VolumeMount) bool { return o.Name == m.Name }) {
					f.add(fmt.Sprintf("spec.templates[0].initContainers[%d].volumeMounts[%s]", i, m.Name),
						"holds the results of another container")
				}
			}
		}
	}
}

// isOfTheDeveloper tells whether the bindings are the Secret that a workflow gets by the developer's SecretReference.
func isOfTheDeveloper(template wfv1.Template) bool {
	return slices.ContainsFunc(template.Volumes, func(v corev1.Volume) bool {
		return v.Name == bindings && v.Secret != nil &&
			v.Secret.SecretName == "{{workflow.parameters.workflowrun-name}}-bindings"
	})
}

func isSecret(template wfv1.Template, volume string) bool {
	return slices.ContainsFunc(template.Volumes, func(v corev1.Volume) bool {
		return v.Name == volume && (v.Secret != nil || v.Projected != nil)
	})
}

// identities are the audiences of the tokens that prove who a run's service account is, by the templates that have one.
var identities = map[string]string{
	"publish-image":        "sigstore",
	"generate-workload-cr": "{{inputs.parameters.oauth-client-assertion-audience}}",
}

// isIdentity tells whether a volume is a token of the service account that is good for one audience, and for minutes.
func isIdentity(sources []corev1.VolumeProjection, audience string) bool {
	if len(sources) != 1 || sources[0].ServiceAccountToken == nil {
		return false
	}
	token := sources[0].ServiceAccountToken
	return token.Audience == audience && token.ExpirationSeconds != nil && *token.ExpirationSeconds == 600
}

func names(list corev1.ResourceList) map[string]bool {
	all := map[string]bool{}
	for name, quantity := range list {
		all[string(name)] = !quantity.IsZero()
	}
	return all
}

// pinned returns the fault of an image's reference; empty when it has none.
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

// differs compares a security context with the wanted one.
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

// lintRequired checks that a step waits for a Secret without which it would go on anonymously, and for none that is
// not needed.
func lintRequired(f *faults, template wfv1.Template, volume string, r rules) {
	in := func(name string) string {
		if p := template.Inputs.GetParameterByName(name); p != nil && p.Default != nil {
			return p.Default.String()
		}
		return ""
	}
	switch {
	case strings.HasPrefix(volume, "registry-"):
		needed := fmt.Sprint(!slices.Contains(r.anonymous, volume))
		if name := strings.TrimPrefix(volume, "registry-") + "-required"; in(name) != needed {
			f.add("spec.templates[0].inputs.parameters["+name+"]", "is %q, want %q", in(name), needed)
		}
	case slices.Contains([]string{"git-secret", bindings, "build-secrets", "commit-status"}, volume):
		return // each has a timeout of its own
	case volume == "otlp-headers":
		return // spans hold up no step
	}
	if seconds, err := strconv.Atoi(in("secret-timeout")); err != nil || seconds < 90 {
		f.add("spec.templates[0].inputs.parameters[secret-timeout]", "is %q: a node looks for a Secret once a minute",
			in("secret-timeout"))
	}
}

func lintVolumes(f *faults, template wfv1.Template, r rules) {
	mounts := map[string]string{}
	for _, m := range template.Container.VolumeMounts {
		mounts[m.MountPath] = m.Name
		if m.Name == "workspace" && template.Name == "publish-image" && !m.ReadOnly {
			f.add("spec.templates[0].container.volumeMounts[workspace]", "must be read-only")
		}
		if m.Name != "workspace" && !slices.ContainsFunc(template.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name
		}) {
			f.add("spec.templates[0].container.volumeMounts["+m.Name+"]", "there is no such volume")
		}
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
			// A pod without a Secret that it must have says nothing until its deadline. A step waits for it, and says
			// that it has not come.
			if v.Secret.Optional == nil || !*v.Secret.Optional {
				f.add(field+".secret.optional", "is false: the step itself must wait for what it needs")
			}
			lintRequired(f, template, v.Name, r)
		case v.Projected != nil:
			if audience := identities[template.Name]; audience == "" || !isIdentity(v.Projected.Sources, audience) {
				f.add(field, "must be one token to sign with, in publish-image, or one to register with, in "+
					"generate-workload-cr")
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
