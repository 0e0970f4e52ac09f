package plan

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/argoproj/argo-workflows/v4/util/intstr"
	"github.com/argoproj/argo-workflows/v4/util/logging"
	"github.com/argoproj/argo-workflows/v4/util/template"
	"github.com/argoproj/argo-workflows/v4/workflow/common"
	"github.com/argoproj/argo-workflows/v4/workflow/validate"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/localplane/pipeline"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
)

// schemaAnnotation names, on a ClusterWorkflowTemplate, the schema of its step's parameters.
const schemaAnnotation = "stepwright.dev/schema"

// plan is one workflow on one machine.
type plan struct {
	ctx     context.Context // with Argo's logger
	library *Library
	machine Machine
	name    string
	spec    wfv1.WorkflowSpec
	globals common.Parameters
	last    string // name of the last step
}

// Decode reads a rendered workflow. A field that Argo does not know is an error.
func Decode(object map[string]any) (*wfv1.Workflow, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	workflow := new(wfv1.Workflow)
	if err := yaml.UnmarshalStrict(raw, workflow); err != nil {
		return nil, fmt.Errorf("the rendered workflow: %w", err)
	}
	return workflow, nil
}

// Plan makes the steps of a workflow. Every fault that can be known before the first step runs is found, the first ones
// by Argo's validator; nothing is written yet.
func Plan(ctx context.Context, workflow *wfv1.Workflow, library *Library, machine Machine) ([]pipeline.Step, error) {
	ctx = logging.WithLogger(ctx, logging.NewSlogLogger(logging.Error, logging.Text))
	if err := validate.ValidateWorkflow(ctx, nil, library, workflow, nil, validate.ValidateOpts{}); err != nil {
		return nil, fmt.Errorf("the workflow is refused by Argo: %w", err)
	}
	p := &plan{ctx: ctx, library: library, machine: machine, name: workflow.Name}
	for name := range machine.Settings {
		if _, err := library.Get(ctx, name); err != nil {
			return nil, err
		}
	}
	if err := p.resolve(workflow); err != nil {
		return nil, err
	}
	steps, err := p.sequence()
	if err != nil {
		return nil, err
	}
	var planned []pipeline.Step
	if len(steps) > 0 {
		p.last = steps[len(steps)-1].Name
	}
	known := pipeline.Outputs{} // as if every step had run
	for _, step := range steps {
		process, _, err := p.process(&step, known)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step.Name, err)
		}
		known[step.Name] = map[string]string{}
		for output := range process.Outputs {
			known[step.Name][output] = ""
		}
		planned = append(planned, pipeline.Step{Name: step.Name,
			Process: func(done pipeline.Outputs) (*pipeline.Process, error) {
				process, mounts, err := p.process(&step, done)
				if err != nil {
					return nil, err
				}
				return process, mounts.make()
			}})
	}
	return planned, nil
}

// resolve substitutes the workflow's own values in it, as Argo does once when a workflow starts.
func (p *plan) resolve(workflow *wfv1.Workflow) error {
	known := []string{
		"entrypoint", "templates", "arguments", "serviceAccountName", "volumeClaimTemplates", "volumeClaimGC",
		"ttlStrategy", "podGC", "podMetadata", "securityContext", "synchronization",
		// Left out on purpose: a cluster's nodes, queues and metrics.
		"nodeSelector", "tolerations", "podPriorityClassName", "priority", "activeDeadlineSeconds", "metrics",
	}
	if onlyTells(workflow) {
		known = append(known, "onExit", "hooks") // left out on purpose: here people see themselves how a run ended
	}
	if err := only("the workflow", workflow.Spec, known...); err != nil {
		return err
	}
	created := workflow.CreationTimestamp.Time
	if created.IsZero() { // no cluster has made it
		created = time.Now()
	}
	p.globals = common.Parameters{
		common.GlobalVarWorkflowName:               workflow.Name,
		common.GlobalVarWorkflowUID:                string(workflow.UID),
		common.GlobalVarWorkflowCreationTimestamp:  created.UTC().Format(time.RFC3339),
		common.GlobalVarWorkflowNamespace:          workflow.Namespace,
		common.GlobalVarWorkflowMainEntrypoint:     workflow.Spec.Entrypoint,
		common.GlobalVarWorkflowServiceAccountName: workflow.Spec.ServiceAccountName,
	}
	for _, parameter := range workflow.Spec.Arguments.Parameters {
		if parameter.Value == nil {
			return fmt.Errorf("the workflow's argument %s has no value", parameter.Name)
		}
		p.globals["workflow.parameters."+parameter.Name] = parameter.Value.String()
	}
	spec := workflow.Spec.DeepCopy()
	spec.Templates = nil
	raw, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	text, err := template.Replace(p.ctx, string(raw), template.ToAnyMap(p.globals), true)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), &p.spec); err != nil {
		return err
	}
	p.spec.Templates = workflow.Spec.Templates
	return nil
}

// onlyTells tells whether all that a workflow's hooks and exit handler do is to tell others how the run goes.
func onlyTells(workflow *wfv1.Workflow) bool {
	for _, hook := range workflow.Spec.Hooks {
		if hook.TemplateRef == nil || hook.TemplateRef.Name != outcome.Reporter {
			return false
		}
	}
	if workflow.Spec.OnExit == "" {
		return true
	}
	handler := workflow.GetTemplateByName(workflow.Spec.OnExit)
	return handler != nil && len(handler.Steps) > 0 &&
		!slices.ContainsFunc(handler.Steps, func(group wfv1.ParallelSteps) bool {
			return slices.ContainsFunc(group.Steps, func(step wfv1.WorkflowStep) bool {
				return step.When != "{{workflow.status}} != Succeeded" &&
					(step.TemplateRef == nil || step.TemplateRef.Name != outcome.Reporter)
			})
		})
}

// sequence is the entrypoint's steps, one after the other.
func (p *plan) sequence() ([]wfv1.WorkflowStep, error) {
	i := slices.IndexFunc(p.spec.Templates, func(t wfv1.Template) bool { return t.Name == p.spec.Entrypoint })
	if i < 0 {
		return nil, fmt.Errorf("the workflow has no template %q, its entrypoint", p.spec.Entrypoint)
	}
	entry := &p.spec.Templates[i]
	what := "template " + entry.Name
	if err := only(what, *entry, "name", "inputs", "outputs", "metadata", "steps"); err != nil {
		return nil, err
	}
	entry, err := common.ProcessArgs(p.ctx, entry, &p.spec.Arguments, p.globals, common.Parameters{}, false, "", nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	var steps []wfv1.WorkflowStep
	for i, group := range entry.Steps {
		if len(group.Steps) != 1 {
			return nil, fmt.Errorf(
				"%s: steps[%d] has %d steps, and parallel ones cannot be run here", what, i, len(group.Steps),
			)
		}
		step := group.Steps[0]
		if err := only("step "+step.Name, step, "name", "templateRef", "arguments"); err != nil {
			return nil, err
		}
		if step.TemplateRef == nil || !step.TemplateRef.ClusterScope {
			return nil, fmt.Errorf(
				"step %s: has no templateRef with clusterScope, and others cannot be run here", step.Name,
			)
		}
		if err := only("step "+step.Name+": arguments", step.Arguments, "parameters"); err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// process substitutes a step, its arguments first and then its template with them, and makes its containers processes.
func (p *plan) process(step *wfv1.WorkflowStep, done pipeline.Outputs) (*pipeline.Process, mounts, error) {
	arguments, err := p.arguments(step, done)
	if err != nil {
		return nil, nil, err
	}
	cluster, raw, err := p.template(step.TemplateRef)
	if err != nil {
		return nil, nil, err
	}
	fail := func(what string, err error) error {
		return fmt.Errorf("ClusterWorkflowTemplate %s, template %s: %s%w", cluster.Name, raw.Name, what, err)
	}
	substitute := func(t *wfv1.Template) (*wfv1.Template, error) {
		local := common.Parameters{common.LocalVarPodName: p.name + "-" + step.Name}
		return common.ProcessArgs(p.ctx, t, arguments, p.globals, local, false, "", nil)
	}
	var (
		all    mounts // those of every container
		before []*pipeline.Process
		last   *wfv1.Template // as the last container has it, which is the main one
	)
	one := func(which selector) (*pipeline.Process, error) {
		// Volumes name their Secrets with parameters, so they are substituted before paths can be mapped.
		substituted, err := substitute(raw)
		if err != nil {
			return nil, err
		}
		mounts, err := p.machine.mounts(step.Name, &p.spec, substituted, which(substituted))
		if err != nil {
			return nil, err
		}
		all = append(all, mounts...)
		// Paths are mapped where the template's author wrote them, before values come in: a developer's path /tmp is in
		// the repository.
		mapped, entered := raw.DeepCopy(), mounts.bring(which(substituted))
		if !entered {
			mapPaths(mapped, which(mapped), mounts)
		}
		mapOutputs(mapped, mounts)
		if substituted, err = substitute(mapped); err != nil {
			return nil, err
		}
		last = substituted
		p.trace(step.Name, which(substituted), entered && which(substituted) != substituted.Container)
		schema := cluster.Annotations[schemaAnnotation]
		if entered {
			return p.enter(cluster.Name, substituted, which(substituted), mounts, schema)
		}
		return p.start(which(substituted), mounts, schema)
	}
	for i, init := range raw.InitContainers {
		process, err := one(initContainer(i))
		if err != nil {
			return nil, nil, fail("init container "+init.Name+": ", err)
		}
		if process.Enter != nil {
			// It may run strangers' code, which can write its results, and then no more than its exit code counts.
			process.Results = ""
		}
		before = append(before, process)
	}
	process, err := one(mainContainer)
	if err != nil {
		return nil, nil, fail("", err)
	}
	process.Before = before
	if err := finish(process, last); err != nil {
		return nil, nil, fail("", err)
	}
	return process, all, nil
}

// trace gives a container the machine's variables for spans in place of the template's. One that may run strangers'
// code gets none, as in a cluster: it could make up a trace.
func (p *plan) trace(step string, c *corev1.Container, strangers bool) {
	c.Env = slices.DeleteFunc(c.Env, func(v corev1.EnvVar) bool {
		return strings.HasPrefix(v.Name, "OTEL_") || strings.HasPrefix(v.Name, "STEPWRIGHT_")
	})
	if strangers || p.machine.Trace == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(p.machine.Trace)) {
		c.Env = append(c.Env, corev1.EnvVar{Name: name, Value: strings.ReplaceAll(p.machine.Trace[name], "$", "$$")})
	}
	if c.Name != "" && c.Name != common.MainContainerName {
		c.Env = append(c.Env, corev1.EnvVar{Name: "STEPWRIGHT_PHASE", Value: c.Name})
	}
	if step == p.last {
		c.Env = append(c.Env, corev1.EnvVar{Name: "STEPWRIGHT_RUN_LAST", Value: "true"})
	}
}

// A selector is one of a template's containers.
type selector func(*wfv1.Template) *corev1.Container

func mainContainer(t *wfv1.Template) *corev1.Container { return t.Container }

func initContainer(i int) selector {
	return func(t *wfv1.Template) *corev1.Container { return &t.InitContainers[i].Container }
}

// arguments substitutes the outputs of earlier steps.
func (p *plan) arguments(step *wfv1.WorkflowStep, done pipeline.Outputs) (*wfv1.Arguments, error) {
	scope := template.ToAnyMap(p.globals)
	for name, outputs := range done {
		for output, value := range outputs {
			scope["steps."+name+".outputs.parameters."+output] = value
		}
	}
	raw, err := json.Marshal(step)
	if err != nil {
		return nil, err
	}
	text, err := template.ReplaceStrictAny(p.ctx, string(raw), scope, []string{"steps", "tasks"})
	if err != nil {
		return nil, err
	}
	var substituted wfv1.WorkflowStep
	if err := json.Unmarshal([]byte(text), &substituted); err != nil {
		return nil, err
	}
	return &substituted.Arguments, nil
}

// template finds what a step refers to, and gives its input parameters the machine's settings.
func (p *plan) template(ref *wfv1.TemplateRef) (*wfv1.ClusterWorkflowTemplate, *wfv1.Template, error) {
	cluster, err := p.library.Get(p.ctx, ref.Name)
	if err != nil {
		return nil, nil, err
	}
	found := cluster.GetTemplateByName(ref.Template)
	if found == nil {
		return nil, nil, fmt.Errorf("ClusterWorkflowTemplate %s has no template %q", ref.Name, ref.Template)
	}
	found = found.DeepCopy()
	for _, name := range slices.Sorted(maps.Keys(p.machine.Settings[ref.Name])) {
		i := slices.IndexFunc(found.Inputs.Parameters, func(in wfv1.Parameter) bool { return in.Name == name })
		if i < 0 {
			return nil, nil, fmt.Errorf(
				"ClusterWorkflowTemplate %s, template %s: has no input parameter %s, which this machine sets",
				ref.Name, ref.Template, name,
			)
		}
		found.Inputs.Parameters[i].Default = wfv1.AnyStringPtr(p.machine.Settings[ref.Name][name])
	}
	return cluster, found, supported(found)
}

// supported refuses what this package would leave out.
func supported(t *wfv1.Template) error {
	what := "template " + t.Name
	// Left out on purpose: resources, mutexes, metrics and patches of Argo's own containers, which only a cluster has.
	err := only(what, *t, "name", "inputs", "outputs", "metadata", "activeDeadlineSeconds", "securityContext",
		"synchronization", "metrics",
		"podSpecPatch", "volumes",
		"initContainers", "container")
	if err == nil {
		err = patchesArgo(what+": podSpecPatch", t.PodSpecPatch)
	}
	if err == nil && t.Container == nil {
		err = fmt.Errorf("%s: has no container", what)
	}
	if err == nil {
		err = only(what+": inputs", t.Inputs, "parameters")
	}
	if err == nil {
		err = only(what+": outputs", t.Outputs, "parameters")
	}
	if err == nil {
		err = supportedContainer(what+": container", t.Container)
	}
	if err != nil {
		return err
	}
	for i := range t.InitContainers {
		if err := only(what+": init container "+
			t.InitContainers[i].Name, t.InitContainers[i], containerFields...); err != nil {
			return err
		}
		if err := supportedContainer(what+": init container "+
			t.InitContainers[i].Name, &t.InitContainers[i].Container); err != nil {
			return err
		}
	}
	for _, output := range t.Outputs.Parameters {
		if output.ValueFrom == nil || output.ValueFrom.Path == "" {
			return fmt.Errorf("%s: output %s: has no valueFrom.path, and others cannot be read here", what, output.Name)
		}
	}
	return nil
}

var containerFields = []string{
	"name", "image", "imagePullPolicy", "command", "args", "env", "volumeMounts", "resources", "securityContext",
}

func supportedContainer(what string, c *corev1.Container) error {
	if err := only(what, *c, containerFields...); err != nil {
		return err
	}
	for _, variable := range c.Env {
		if err := only(strings.TrimSuffix(what, ": container")+": variable "+
			variable.Name, variable, "name", "value"); err != nil {
			return err
		}
	}
	return nil
}

// mapPaths replaces the paths that a template's author wrote for one of its containers by those of this machine.
func mapPaths(t *wfv1.Template, c *corev1.Container, mounts mounts) {
	for i := range t.Inputs.Parameters {
		in := &t.Inputs.Parameters[i]
		for _, value := range []**wfv1.AnyString{&in.Default, &in.Value} {
			if *value == nil {
				continue
			}
			if path, mapped := mounts.local((*value).String()); mapped {
				*value = wfv1.AnyStringPtr(path)
			}
		}
	}
	for i := range c.Env {
		c.Env[i].Value, _ = mounts.local(c.Env[i].Value)
	}
	for i := range c.Args {
		c.Args[i], _ = mounts.local(c.Args[i])
	}
	for i := range c.Command {
		if i > 0 { // of the program only the name counts
			c.Command[i], _ = mounts.local(c.Command[i])
		}
	}
}

// mapOutputs replaces the paths of outputs, which are read on this machine.
func mapOutputs(t *wfv1.Template, mounts mounts) {
	for i := range t.Outputs.Parameters {
		from := t.Outputs.Parameters[i].ValueFrom
		from.Path, _ = mounts.local(from.Path)
	}
}

// start makes a container a process of this machine. The parameters that its variables leave to their defaults are set
// where those are paths of a volume.
func (p *plan) start(c *corev1.Container, mounts mounts, schema string) (*pipeline.Process, error) {
	if len(c.Command) == 0 {
		return nil, fmt.Errorf("the container has no command")
	}
	process := &pipeline.Process{Args: slices.Concat(c.Command[1:], c.Args)}
	var err error
	if process.Program, err = p.program(c.Command[0]); err != nil {
		return nil, err
	}
	process.Env, process.Args = variables(c, process.Args)
	defaults, err := defaults(schema)
	if err != nil {
		return nil, err
	}
	for variable, value := range defaults {
		path, mapped := mounts.local(value)
		if process.Env[variable] == "" && mapped {
			process.Env[variable] = path
		}
	}
	process.Results = process.Env[resultsVariable]
	return process, nil
}

// enter makes a container one that runs in its image.
func (p *plan) enter(
	name string, t *wfv1.Template, c *corev1.Container, mounts mounts, schema string,
) (*pipeline.Process, error) {
	if p.machine.Containers == nil {
		return nil, fmt.Errorf("image %s cannot be run here", c.Image)
	}
	inside := container.Container{Image: cmp.Or(p.machine.Images[name], c.Image), Mounts: mounts.inside()}
	if err := restrict(&inside, t, c); err != nil {
		return nil, err
	}
	if err := container.Check(p.ctx); err != nil {
		return nil, err
	}
	inside.Env, inside.Args = variables(c, slices.Concat(c.Command, c.Args))
	if _, err := p.program(c.Command[0]); err != nil { // what an init container is to bring
		return nil, err
	}
	defaults, err := defaults(schema)
	if err != nil {
		return nil, err
	}
	process := &pipeline.Process{Args: inside.Args, Env: inside.Env}
	process.Results, _ = mounts.local(cmp.Or(inside.Env[resultsVariable], defaults[resultsVariable]))
	process.Enter = func(ctx context.Context, log func(string)) (*exec.Cmd, func() error, error) {
		cmd, leave, err := p.machine.Containers.Command(ctx, inside, log)
		if _, ok := errors.AsType[*container.ImageError](err); ok {
			err = outcome.Errorf(outcome.BaseImageUnavailable, "%w", err)
		}
		return cmd, leave, err
	}
	return process, nil
}

// restrict takes what a container's security context and its pod's say. A right that a container of this machine does
// not have is refused.
func restrict(into *container.Container, t *wfv1.Template, c *corev1.Container) error {
	pod, own := t.SecurityContext, c.SecurityContext
	if pod == nil {
		pod = new(corev1.PodSecurityContext)
	}
	if own == nil {
		own = new(corev1.SecurityContext)
	}
	if err := only("securityContext", *own, "privileged", "allowPrivilegeEscalation", "readOnlyRootFilesystem",
		"runAsNonRoot",
		"runAsUser", "runAsGroup", "capabilities",
		"seccompProfile", "appArmorProfile"); err != nil {
		return err
	}
	user, group := cmp.Or(own.RunAsUser, pod.RunAsUser), cmp.Or(own.RunAsGroup, pod.RunAsGroup)
	switch {
	case user == nil || group == nil || *user <= 0:
		return fmt.Errorf(
			"a container of image %s is run here only with a runAsUser other than root, and a runAsGroup", c.Image,
		)
	case own.Privileged != nil && *own.Privileged:
		return fmt.Errorf("a privileged container cannot be run here")
	case own.Capabilities == nil || len(own.Capabilities.Add) > 0 || !slices.Contains(own.Capabilities.Drop, "ALL"):
		return fmt.Errorf(
			"a container of image %s is run here only without capabilities: drop ALL and add none", c.Image,
		)
	}
	into.User, into.Group = uint32(*user), uint32(*group)
	into.ReadOnlyRoot = own.ReadOnlyRootFilesystem != nil && *own.ReadOnlyRootFilesystem
	into.NoNewRights = own.AllowPrivilegeEscalation != nil && !*own.AllowPrivilegeEscalation
	return nil
}

// resultsVariable names the folder in which a step leaves its outcome.
const resultsVariable = "RESULTS_DIR"

// variables expands a container's variables and arguments as Kubernetes does.
func variables(c *corev1.Container, args []string) (map[string]string, []string) {
	env, args := map[string]string{}, slices.Clone(args)
	for _, variable := range c.Env {
		env[variable.Name] = expand(variable.Value, env)
	}
	for i, argument := range args {
		args[i] = expand(argument, env)
	}
	return env, args
}

// defaults are the defaults of a schema's parameters, by variable.
func defaults(schema string) (map[string]string, error) {
	all := map[string]string{}
	if schema == "" {
		return all, nil
	}
	described, err := schemas.Load(schema)
	if err != nil {
		return nil, err
	}
	for _, property := range described.Properties {
		all[schemas.EnvName(property.Name)] = schemas.Text(property.Default)
	}
	return all, nil
}

// finish takes over the settings of the whole pod: its deadline, and its outputs.
func finish(process *pipeline.Process, t *wfv1.Template) error {
	process.Outputs = map[string]pipeline.Output{}
	if seconds := t.ActiveDeadlineSeconds; seconds != nil {
		whole, err := intstr.Int32(seconds)
		if err != nil {
			return fmt.Errorf("activeDeadlineSeconds: %w", err)
		}
		process.Deadline = time.Duration(*whole) * time.Second
	}
	for _, output := range t.Outputs.Parameters {
		var absent *string
		if output.ValueFrom.Default != nil {
			text := output.ValueFrom.Default.String()
			absent = &text
		}
		process.Outputs[output.Name] = pipeline.Output{Path: output.ValueFrom.Path, Default: absent}
	}
	return nil
}

// program finds the binary of a container's command. Only its name counts: nothing outside the folder of steps is ever
// run.
func (p *plan) program(command string) (string, error) {
	path := filepath.Join(p.machine.Programs, filepath.Base(command))
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf(
			"the step %s is not in %s: run make build, or say where it is with --steps-dir", filepath.Base(command),
			p.machine.Programs,
		)
	}
	return path, nil
}

// patchesArgo refuses a patch of what runs here. Argo's own containers do not, and the pod's user namespace is a
// cluster's, too.
func patchesArgo(what, patch string) error {
	var spec corev1.PodSpec
	if err := yaml.UnmarshalStrict([]byte(patch), &spec); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for _, c := range append(spec.InitContainers, spec.Containers...) {
		if c.Name != common.InitContainerName && c.Name != common.WaitContainerName {
			return fmt.Errorf("%s: the container %q cannot be patched here", what, c.Name)
		}
	}
	return only(what, spec, "initContainers", "containers", "hostUsers")
}

// only refuses an object that has other fields than those.
func only(what string, object any, known ...string) error {
	raw, err := json.Marshal(object)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(known, name) && string(fields[name]) != "{}" {
			return fmt.Errorf("%s", strings.TrimPrefix(what+": "+name+" cannot be run here", ": "))
		}
	}
	return nil
}
