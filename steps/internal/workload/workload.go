// Package workload is the step generate-workload-cr: it makes a component's Workload of its descriptor and image,
// publishes it through the OpenChoreo API, and leaves it in the annotations of the WorkflowRun.
package workload

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// Parameters are those of schemas/generate-workload-cr.schema.json.
type Parameters struct {
	step.Common
	Namespace         string `json:"namespace-name"`
	Project           string `json:"project-name"`
	Component         string `json:"component-name"`
	Image             string `json:"image"`
	ImageFile         string `json:"image-file"`
	Descriptor        string `json:"descriptor"`
	WorkloadName      string `json:"workload-name"`
	Run               string `json:"run-name"`
	AppPath           string `json:"app-path"`
	TokenURL          string `json:"oauth-token-url"`
	ClientID          string `json:"oauth-client-id"`
	ClientSecret      string `json:"oauth-client-secret"`
	ClientSecretFile  string `json:"oauth-client-secret-file"`
	ClientAuth        string `json:"oauth-client-auth"`
	Scope             string `json:"oauth-scope"`
	Audience          string `json:"oauth-audience"`
	TokenFile         string `json:"token-file"`
	APIServerURL      string `json:"api-server-url"`
	InsecurePlainHTTP bool   `json:"insecure-plain-http"`
	Wait              bool   `json:"wait"`
	WaitTimeout       int    `json:"wait-timeout"` // in seconds
	DryRun            bool   `json:"dry-run"`
	Output            string `json:"output"`
}

// The annotations of a WorkflowRun that tell what it made (docs/contract.md section 4).
const (
	payloadAnnotation    = "openchoreo.dev/workload"
	fromSourceAnnotation = "openchoreo.dev/workload-from-source"
)

// The API's limits in bytes (docs/contract.md section 4). It tells of the second only after the Workload is changed.
const (
	bodyLimit        = 1_500_000
	annotationsLimit = 262_144
)

// Run runs the step. Its results are the Workload's name, and whether it comes from a descriptor.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	image, err := in.image()
	if err != nil {
		return nil, err
	}
	in.Image = image
	p := &publication{Parameters: in, log: env.Log}
	if !in.DryRun {
		p.api, err = openchoreo.New(openchoreo.Settings{
			APIServerURL: in.APIServerURL, TokenURL: in.TokenURL,
			ClientID: in.ClientID, ClientSecret: in.ClientSecret, ClientSecretFile: in.ClientSecretFile,
			ClientAuth: in.ClientAuth,
			Scope:      in.Scope, Audience: in.Audience, TokenFile: in.TokenFile,
			CABundle: in.CABundle, InsecurePlainHTTP: in.InsecurePlainHTTP,
		}, env.Secrets)
		if err != nil {
			return nil, err
		}
	}
	m, err := in.manifest()
	if err != nil {
		return nil, err
	}
	for _, w := range m.Warnings {
		env.Log.Warn(w)
	}
	p.fromSource = m.FromSource
	if p.wanted, err = m.Object(); err != nil {
		return nil, err
	}
	if p.payload, err = p.wanted.Encode(); err != nil {
		return nil, err
	}
	if len(p.payload) > bodyLimit {
		return nil, tooLarge("the Workload", len(p.payload), bodyLimit)
	}
	results := step.Results{"workload": p.wanted.Name(), "workload-from-source": strconv.FormatBool(m.FromSource)}

	if in.Output != "" {
		raw, err := m.YAML()
		if err != nil {
			return nil, err
		}
		if err := renameio.WriteFile(in.Output, raw, 0o644); err != nil {
			return nil, fmt.Errorf("output: %w", err)
		}
	}
	if in.DryRun {
		_, err := fmt.Fprintf(env.Stdout, "%s\n", p.payload)
		return results, err
	}

	// What can be known to fail must fail before the first write, and each part is tried again alone: all of them may
	// be repeated.
	if err := env.Retry.Do(ctx, p.check); err != nil {
		return nil, err
	}
	if err := env.Retry.Do(ctx, p.publish); err != nil {
		return nil, err
	}
	results["workload"] = p.name
	if in.Wait {
		if err := p.wait(ctx, env.Retry); err != nil {
			return results, err
		}
	}
	if err := env.Retry.Do(ctx, p.annotate); err != nil {
		return results, fmt.Errorf(
			"published Workload %s, but could not annotate WorkflowRun %s with it; the step may be repeated: %w",
			p.name, in.Run, err,
		)
	}
	return results, nil
}

// publication is one Workload on its way into OpenChoreo.
type publication struct {
	Parameters
	api        *openchoreo.Client
	log        *slog.Logger
	wanted     openchoreo.Object // the Workload, named as a new one is
	payload    []byte            // the same, encoded
	fromSource bool
	name       string // of the Workload that was created or updated
	outdone    bool   // by a newer run, so that the Workload was left as it is
}

// check fails if the WorkflowRun is absent, or cannot take the annotations.
func (p *publication) check(ctx context.Context) error {
	if p.Run == "" {
		return nil
	}
	run, err := p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run)
	if err == nil {
		_, err = p.annotated(run)
	}
	return err
}

// publish creates the component's Workload, or updates the one there is. It writes nothing when nothing would change.
func (p *publication) publish(ctx context.Context) error {
	started := time.Now()
	existing, err := p.find(ctx)
	if err != nil {
		return err
	}
	if newer, err := p.newerRun(ctx); err != nil {
		return err
	} else if newer != "" && existing != nil {
		p.name, p.outdone = existing.Name(), true
		p.log.Warn(
			"A newer run has published its Workload already, which is left as it is", "workload", p.name, "run",
			newer,
		)
		return nil
	}
	if existing == nil {
		p.name = p.wanted.Name()
		err := p.api.Create(ctx, p.Namespace, openchoreo.Workloads, p.wanted)
		switch {
		case err == nil:
			p.log.Info(
				"Created the Workload", "workload", p.name, "from-source", p.fromSource, "took", time.Since(started),
			)
			return nil
		case openchoreo.IsBadRequest(err):
			return outcome.Errorf(outcome.NotFound, "component %s in namespace %s: %w", p.Component, p.Namespace, err)
		case !openchoreo.IsConflict(err):
			return err
		}
		// Another run was faster, or an earlier try was answered by a broken connection only.
		if existing, err = p.api.Get(ctx, p.Namespace, openchoreo.Workloads, p.name); err != nil {
			return err
		}
	}
	return p.update(ctx, existing, started)
}

// find returns the component's Workload, whatever its name; nil when there is none. OpenChoreo expects exactly one. Of
// several, nobody can tell which one counts, and nothing is changed; only a WorkflowRun still updates the one that is
// named as this step names them, as OpenChoreo's own workflows do.
func (p *publication) find(ctx context.Context) (openchoreo.Object, error) {
	all, err := p.api.List(ctx, p.Namespace, openchoreo.Workloads, url.Values{"component": {p.Component}})
	switch {
	case err != nil || len(all) == 0:
		return nil, err
	case len(all) == 1:
		return all[0], nil
	}
	var names []string
	for _, w := range all {
		names = append(names, w.Name())
	}
	list := strings.Join(names, ", ")
	const hint = "OpenChoreo expects exactly one Workload per component: delete the others."
	if i := slices.Index(names, p.wanted.Name()); i >= 0 && p.Run != "" {
		p.log.Warn("The component has several Workloads. "+
			hint, "component", p.Component, "workloads", list, "updating", names[i])
		return all[i], nil
	}
	return nil, outcome.Errorf(
		outcome.WorkloadRejected, "component %s has %d Workloads: %s", p.Component, len(all), list,
	).WithHint(
		hint,
	)
}

// newerRun names a run of the same component that was started after this one and has published its Workload; empty when
// there is none. Without it, the late build of an old commit would replace a newer one.
func (p *publication) newerRun(ctx context.Context) (string, error) {
	if p.Run == "" {
		return "", nil
	}
	selector := fmt.Sprintf("openchoreo.dev/project=%s,openchoreo.dev/component=%s", p.Project, p.Component)
	runs, err := p.api.List(ctx, p.Namespace, openchoreo.WorkflowRuns, url.Values{"labelSelector": {selector}})
	if err != nil {
		return "", err
	}
	created := func(run openchoreo.Object) time.Time {
		t, _ := time.Parse(time.RFC3339, run.Text("metadata", "creationTimestamp"))
		return t
	}
	i := slices.IndexFunc(runs, func(run openchoreo.Object) bool { return run.Name() == p.Run })
	if i < 0 {
		return "", nil // this run is not labelled as one of the component's
	}
	for _, run := range runs {
		if created(run).After(created(runs[i])) && run.Text("metadata", "annotations", payloadAnnotation) != "" {
			return run.Name(), nil
		}
	}
	return "", nil
}

// update gives an existing Workload the wanted spec, or without a descriptor the image only, since its other fields may
// have been edited in the portal. All else, such as labels and annotations of others, is sent back as it came, since a
// PUT replaces it.
func (p *publication) update(ctx context.Context, existing openchoreo.Object, started time.Time) error {
	p.name = existing.Name()
	// The API would not let the owner be changed, and says less about it.
	project, component := existing.Text("spec", "owner", "projectName"), existing.Text("spec", "owner", "componentName")
	if project != p.Project || component != p.Component {
		return outcome.Errorf(
			outcome.WorkloadRejected,
			"Workload %s belongs to component %q of project %q, not to component %q of project %q", p.name, component,
			project, p.Component, p.Project,
		).
			WithHint("Check project and component names. A Workload's owner cannot be changed, only the Workload " +
				"deleted.")
	}
	var updated openchoreo.Object
	if p.fromSource {
		updated = existing.With(p.wanted["spec"], "spec")
	} else {
		updated = existing.With(p.Image, "spec", "container", "image")
	}
	if reflect.DeepEqual(updated, existing) {
		p.log.Info("The Workload is up to date", "workload", p.name, "took", time.Since(started))
		return nil
	}
	if err := fits("the Workload", updated); err != nil {
		return err
	}
	if err := p.api.Update(ctx, p.Namespace, openchoreo.Workloads, p.name, updated); err != nil {
		return err
	}
	p.log.Info("Updated the Workload", "workload", p.name, "from-source", p.fromSource, "took", time.Since(started))
	return nil
}

// annotate leaves the Workload in the annotations of the WorkflowRun.
func (p *publication) annotate(ctx context.Context) error {
	if p.Run == "" {
		return nil
	}
	run, err := p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run)
	if err != nil {
		return err
	}
	annotated, err := p.annotated(run)
	if err != nil || reflect.DeepEqual(annotated, run) {
		return err
	}
	if err := p.api.Update(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run, annotated); err != nil {
		return err
	}
	p.log.Info("Annotated the WorkflowRun", "run", p.Run)
	return nil
}

// annotated returns the WorkflowRun with the annotations, if the API would take it.
func (p *publication) annotated(run openchoreo.Object) (openchoreo.Object, error) {
	annotations := maps.Clone(run.At("metadata", "annotations"))
	if annotations == nil {
		annotations = map[string]any{}
	}
	annotations[payloadAnnotation] = string(p.payload)
	annotations[fromSourceAnnotation] = strconv.FormatBool(p.fromSource)
	size := 0
	for key, value := range annotations {
		text, _ := value.(string)
		size += len(key) + len(text)
	}
	what := "WorkflowRun " + p.Run
	if size > annotationsLimit {
		return nil, tooLarge(
			fmt.Sprintf("%s: its annotations, of which the Workload is %d bytes,", what, len(p.payload)), size,
			annotationsLimit,
		)
	}
	annotated := run.With(annotations, "metadata", "annotations")
	return annotated, fits(what, annotated)
}

// fits fails if an object is larger than the API takes.
func fits(what string, object openchoreo.Object) error {
	raw, err := object.Encode()
	if err == nil && len(raw) > bodyLimit {
		err = tooLarge(what, len(raw), bodyLimit)
	}
	return err
}

func tooLarge(what string, size, limit int) error {
	return outcome.Errorf(
		outcome.DescriptorInvalid, "%s would be %d bytes; OpenChoreo takes at most %d", what, size, limit,
	).
		WithHint("Make the schema files and files that workload.yaml names smaller.")
}
