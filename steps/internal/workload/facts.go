package workload

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/stepwright/stepwright/internal/annotation"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// factLimit is how long a fact is at most, in bytes.
const factLimit = 1024

// facts are what the run has built, by the annotations that tell it. What is not known is not among them. The error is
// an InvalidParameters.
func (in Parameters) facts() (map[string]string, error) {
	all := map[string]string{
		annotation.Signature: in.SignatureDigest, annotation.SBOMs: strings.Join(in.SBOMDigests, ","),
	}
	_, all[annotation.Image], _ = strings.Cut(in.Image, "@")
	if in.Revision != "" {
		revision, err := workspace.DecodeRevision(in.Revision)
		if err != nil {
			return nil, err
		}
		all[annotation.Commit], all[annotation.Branch] = revision.Commit, revision.Branch
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	for key, value := range all {
		all[key] = quote.Line(value, factLimit)
	}
	return all, nil
}

// annotateFailure leaves in the annotations of the WorkflowRun which step of it failed, and why, and does nothing else.
func (p *publication) annotateFailure(ctx context.Context, retry outcome.Retry) (step.Results, error) {
	what, err := outcome.FirstFailure(p.Failures)
	if err != nil {
		return nil, err
	}
	if p.Run == "" || p.DryRun {
		return nil, outcome.Invalid("failures: they are of a WorkflowRun, which run-name names, and no dry run")
	}
	facts := map[string]string{
		annotation.Reason: string(what.Reason), annotation.FailedStep: quote.Line(what.Step, factLimit),
	}
	err = retry.Do(ctx, func(ctx context.Context) error {
		run, err := p.api.Get(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run)
		if err != nil {
			return err
		}
		annotated := withFacts(run, facts)
		if reflect.DeepEqual(annotated, run) {
			return nil
		}
		return p.api.Update(ctx, p.Namespace, openchoreo.WorkflowRuns, p.Run, annotated)
	})
	if err != nil {
		return nil, fmt.Errorf("WorkflowRun %s could not be annotated: %w", p.Run, err)
	}
	p.log.Info("Annotated the WorkflowRun", "run", p.Run, "reason", facts[annotation.Reason], "step", what.Step)
	return nil, nil
}

// withFacts is a WorkflowRun with annotations besides those that it has.
func withFacts(run openchoreo.Object, facts map[string]string) openchoreo.Object {
	annotations := maps.Clone(run.At("metadata", "annotations"))
	if annotations == nil {
		annotations = map[string]any{}
	}
	for key, value := range facts {
		annotations[key] = value
	}
	return run.With(annotations, "metadata", "annotations")
}
