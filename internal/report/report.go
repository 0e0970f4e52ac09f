// Package report makes a picture of a run: one HTML page that needs nothing else. It shows what was built of which
// commit, where the time and the bytes went, what changed since the component's last image, and the logs. What it shows
// is strangers' (names, messages, logs), and was told by whatever ran, so everything goes through package quote and
// html/template.
package report

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/openchoreo/openchoreo/api/v1alpha1"

	"github.com/stepwright/stepwright/internal/annotation"
	"github.com/stepwright/stepwright/internal/buildreport"
	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// Source is where runs are kept.
type Source interface {
	// List returns the runs of a namespace, the newest first.
	List(ctx context.Context, namespace string) ([]*v1alpha1.WorkflowRun, error)

	// Details tells what is known of a run's tasks besides its status, by their names.
	Details(ctx context.Context, run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error)

	// Log opens what a task wrote. An absent log is an fs.ErrNotExist, of Log or of the reader.
	Log(ctx context.Context, run *v1alpha1.WorkflowRun, task string, follow bool) (io.ReadCloser, error)
}

// Picture is all that a page shows of a run. Its texts are fit to be shown; sizes are in bytes.
type Picture struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Project   string    `json:"project,omitempty"`
	Component string    `json:"component,omitempty"`
	Workflow  string    `json:"workflow,omitempty"`
	Phase     string    `json:"phase"` // as runstatus.Phase has it
	StartedAt time.Time `json:"startedAt"`
	TookMs    int64     `json:"tookMs"` // until its end, or until the picture was made

	Repository string     `json:"repository,omitempty"`
	Branch     string     `json:"branch,omitempty"`
	Commit     string     `json:"commit,omitempty"`
	CommitTime *time.Time `json:"commitTime,omitempty"`
	Author     string     `json:"author,omitempty"`
	AppPath    string     `json:"appPath,omitempty"`

	Image     string   `json:"image,omitempty"` // with its digest, where it was published
	Digest    string   `json:"digest,omitempty"`
	Signature string   `json:"signature,omitempty"` // digest of the manifest with it
	Bases     []string `json:"bases,omitempty"`

	Steps   []Step              `json:"steps"`
	Failure *Failure            `json:"failure,omitempty"` // nil: the run has not failed
	Build   *buildreport.Report `json:"build,omitempty"`   // nil: the build has left none
	Faults  []string            `json:"faults,omitempty"`  // why something is not shown

	Transfer *buildreport.Transfer `json:"transfer,omitempty"` // nil: what was sent to the registry is not known

	// Before is the component's last run before this one that has left an image; nil: none is known.
	Before *Before `json:"before,omitempty"`
}

// Step is a task of the run.
type Step struct {
	Name       string         `json:"name"`
	Phase      string         `json:"phase"`
	StartedAt  time.Time      `json:"startedAt"`  // zero: it has not started
	DurationMs int64          `json:"durationMs"` // until its end, or until the picture was made
	Reason     outcome.Reason `json:"reason,omitempty"`
	PeakMemory int64          `json:"peakMemory,omitempty"`
	Built      bool           `json:"built,omitempty"` // it has left the build's report
	Log        Log            `json:"log"`
}

// Log is what a step wrote.
type Log struct {
	Lines   []string `json:"lines"`
	Omitted int      `json:"omitted,omitempty"` // lines that are left out
	Before  int      `json:"before,omitempty"`  // lines before those
	Missing string   `json:"missing,omitempty"` // why there is none
}

// Failure is why a run failed.
type Failure struct {
	Step    string         `json:"step,omitempty"` // empty: none of the tasks tells
	Reason  outcome.Reason `json:"reason,omitempty"`
	Message string         `json:"message"`
	Hint    string         `json:"hint,omitempty"`
}

// Before is an earlier run, and the images that it made.
type Before struct {
	Name   string              `json:"name"`
	Images []buildreport.Image `json:"images"`
}

// What is shown of texts, in bytes, and of logs, in lines. The end of a log is where it says what went wrong.
const (
	nameLimit    = 500
	messageLimit = 16 << 10
	lineLimit    = 4 << 10
	beginning    = 500
	end          = 4_500
	looked       = 20 // earlier runs at most

	beginningBytes = 256 << 10
	endBytes       = 1 << 20
)

func word(text string) string { return quote.Line(text, nameLimit) }

// Of makes the picture of a run. A run that goes on is shown as it is now.
func Of(ctx context.Context, from Source, run *v1alpha1.WorkflowRun, now time.Time) (*Picture, error) {
	details, err := from.Details(ctx, run)
	if err != nil {
		return nil, err
	}
	p := &Picture{
		Namespace: word(run.Namespace), Name: word(run.Name), Phase: runstatus.Phase(run), Steps: []Step{},
		Project:   word(run.Labels[workflowrun.ProjectLabel]),
		Component: word(run.Labels[workflowrun.ComponentLabel]),
		Workflow:  word(run.Spec.Workflow.Name),
	}
	p.readSource(run, details)
	p.readImage(run, details)
	if err := p.readSteps(ctx, from, run, details, now.UTC()); err != nil {
		return nil, err
	}
	p.readTimes(run, now.UTC())
	p.readFailure(run, details)
	if p.Build != nil && len(p.Build.Images) > 0 {
		if p.Before, err = before(ctx, from, run); err != nil {
			p.Faults = append(p.Faults, "The component's earlier runs cannot be read: "+word(err.Error()))
		}
	}
	return p, nil
}

// outputOf is an output parameter of the last task that has it.
func outputOf(run *v1alpha1.WorkflowRun, details map[string]runstatus.Detail, name string) (value string) {
	for _, task := range run.Status.Tasks {
		value = cmp.Or(details[task.Name].Outputs[name], value)
	}
	return value
}

// readSource finds what was built: as checkout-source tells, else as the run asks.
func (p *Picture) readSource(run *v1alpha1.WorkflowRun, details map[string]runstatus.Detail) {
	var asked struct {
		Repository struct {
			URL      string `json:"url"`
			AppPath  string `json:"appPath"`
			Revision struct {
				Branch string `json:"branch"`
				Commit string `json:"commit"`
			} `json:"revision"`
		} `json:"repository"`
	}
	if parameters := run.Spec.Workflow.Parameters; parameters != nil {
		_ = json.Unmarshal(parameters.Raw, &asked) // parameters of another form tell nothing
	}
	p.Repository, p.AppPath = word(asked.Repository.URL), word(asked.Repository.AppPath)
	p.Branch, p.Commit = word(asked.Repository.Revision.Branch), word(asked.Repository.Revision.Commit)
	var told struct {
		URL        string    `json:"url"`
		Branch     string    `json:"branch"`
		Commit     string    `json:"commit"`
		AuthorName string    `json:"authorName"`
		Time       time.Time `json:"time"`
	}
	encoded, _ := strings.CutPrefix(outputOf(run, details, "revision"), "base64:")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err == nil && json.Unmarshal(raw, &told) == nil && told.Commit != "" {
		p.Repository = cmp.Or(word(told.URL), p.Repository)
		p.Branch, p.Commit, p.Author = word(told.Branch), word(told.Commit), word(told.AuthorName)
		if !told.Time.IsZero() {
			p.CommitTime = &told.Time
		}
		return
	}
	commit := cmp.Or(outputOf(run, details, "git-commit"), run.Annotations[annotation.Commit])
	p.Commit = cmp.Or(word(commit), p.Commit)
	p.Branch = cmp.Or(word(run.Annotations[annotation.Branch]), p.Branch)
}

// readImage finds what was published.
func (p *Picture) readImage(run *v1alpha1.WorkflowRun, details map[string]runstatus.Detail) {
	p.Image = word(outputOf(run, details, "image"))
	p.Digest = word(cmp.Or(outputOf(run, details, "image-digest"), run.Annotations[annotation.Image]))
	p.Signature = word(cmp.Or(outputOf(run, details, "signature-digest"), run.Annotations[annotation.Signature]))
	if text := outputOf(run, details, buildreport.TransferName); text != "" {
		if sent, err := buildreport.ParseTransfer([]byte(text)); err == nil {
			p.Transfer = &sent
		}
	}
	var bases []string
	_ = json.Unmarshal([]byte(outputOf(run, details, "base-images")), &bases)
	for _, base := range bases[:min(len(bases), 64)] {
		p.Bases = append(p.Bases, word(base))
	}
}

// readSteps reads tasks, their logs, and the report of the one that builds.
func (p *Picture) readSteps(
	ctx context.Context, from Source, run *v1alpha1.WorkflowRun, details map[string]runstatus.Detail, now time.Time,
) error {
	for _, task := range run.Status.Tasks {
		d := details[task.Name]
		s := Step{Name: word(task.Name), Phase: word(task.Phase), Reason: d.Reason, PeakMemory: d.PeakMemory}
		s.StartedAt, s.DurationMs = d.StartedAt.UTC(), d.DurationMs
		if s.StartedAt.IsZero() && task.StartedAt != nil {
			s.StartedAt = task.StartedAt.UTC()
		}
		if !s.StartedAt.IsZero() && s.DurationMs == 0 {
			ended := now
			if task.CompletedAt != nil {
				ended = task.CompletedAt.Time
			}
			s.DurationMs = max(0, ended.Sub(s.StartedAt).Milliseconds())
		}
		if text := d.Outputs[buildreport.Name]; text != "" && p.Build == nil {
			if report, err := buildreport.Parse([]byte(text)); err == nil {
				s.Built, p.Build = true, &report
			} else {
				p.Faults = append(p.Faults, s.Name+" left a report that is not shown: "+word(err.Error()))
			}
		}
		var err error
		if s.Log, err = readLog(ctx, from, run, task.Name); err != nil {
			return err
		}
		p.Steps = append(p.Steps, s)
	}
	return nil
}

// readLog reads the beginning and the end of what a task wrote.
func readLog(ctx context.Context, from Source, run *v1alpha1.WorkflowRun, task string) (Log, error) {
	l := Log{Lines: []string{}}
	body, err := from.Log(ctx, run, task, false)
	if err == nil {
		defer body.Close()
		err = l.read(body)
	}
	if errors.Is(err, fs.ErrNotExist) {
		l.Missing, err = "It is not there any more.", nil
	}
	if ctx.Err() != nil {
		return l, ctx.Err()
	}
	if err != nil {
		l.Missing = word(err.Error())
	}
	return l, nil
}

func (l *Log) read(body io.Reader) error {
	var last []string // the newest lines after the beginning
	held := 0         // bytes of the lines that are kept
	full := false     // the beginning is
	lines := bufio.NewReaderSize(body, quote.LineLimit)
	for {
		piece, err := lines.ReadSlice('\n')
		if len(piece) > 0 {
			line := quote.Output(strings.TrimSuffix(string(piece), "\n"), false)
			if len(line) > lineLimit {
				line = strings.ToValidUTF8(line[:lineLimit], "") + "…"
			}
			if full = full || len(l.Lines) == beginning || held+len(line) > beginningBytes; !full {
				l.Lines = append(l.Lines, line)
				held += len(line)
			} else {
				last = append(last, line)
			}
		}
		if len(last) > 2*end {
			last = l.leaveOut(last)
		}
		if err == nil || errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		last = l.leaveOut(last)
		if l.Omitted > 0 {
			l.Before = len(l.Lines)
		}
		l.Lines = append(l.Lines, last...)
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

// leaveOut leaves out the oldest lines that are too many, and counts them.
func (l *Log) leaveOut(lines []string) []string {
	first, held := len(lines), 0
	for first > 0 && len(lines)-first < end && held+len(lines[first-1]) <= endBytes {
		first--
		held += len(lines[first])
	}
	l.Omitted += first
	return slices.Clone(lines[first:])
}

// readTimes finds the beginning and the end of the run: its status has whole seconds only, and its tasks may know
// better.
func (p *Picture) readTimes(run *v1alpha1.WorkflowRun, now time.Time) {
	var began, ended time.Time
	for _, s := range p.Steps {
		if s.StartedAt.IsZero() {
			continue
		}
		if began.IsZero() || s.StartedAt.Before(began) {
			began = s.StartedAt
		}
		if stop := s.StartedAt.Add(time.Duration(s.DurationMs) * time.Millisecond); stop.After(ended) {
			ended = stop
		}
	}
	if at := run.Status.StartedAt; at != nil && (began.IsZero() || began.Sub(at.Time) >= time.Second) {
		began = at.UTC()
	}
	switch at := run.Status.CompletedAt; {
	case at != nil && (ended.IsZero() || at.Sub(ended) >= time.Second):
		ended = at.UTC()
	case at == nil && !began.IsZero() && !runstatus.Completed(run):
		ended = now
	}
	p.StartedAt = began
	if !began.IsZero() {
		p.TookMs = max(0, ended.Sub(began).Milliseconds())
	}
}

// readFailure finds why the run failed.
func (p *Picture) readFailure(run *v1alpha1.WorkflowRun, details map[string]runstatus.Detail) {
	if p.Phase != runstatus.TaskFailed {
		return
	}
	p.Failure = &Failure{Message: quote.Text(runstatus.Failure(run), messageLimit)}
	for _, task := range run.Status.Tasks {
		if task.Phase != runstatus.TaskFailed && task.Phase != runstatus.TaskError {
			continue
		}
		d := details[task.Name]
		p.Failure = &Failure{
			Step: word(task.Name), Reason: d.Reason, Hint: quote.Text(d.Hint, messageLimit),
			Message: quote.Text(cmp.Or(d.Message, task.Message, runstatus.Failure(run)), messageLimit),
		}
		return
	}
}

// before finds the component's last run before this one that has left an image.
func before(ctx context.Context, from Source, run *v1alpha1.WorkflowRun) (*Before, error) {
	component := run.Labels[workflowrun.ComponentLabel]
	if component == "" {
		return nil, nil
	}
	all, err := from.List(ctx, run.Namespace)
	if err != nil {
		return nil, err
	}
	// The newest is the first.
	here := slices.IndexFunc(all, func(other *v1alpha1.WorkflowRun) bool {
		return other.Namespace == run.Namespace && other.Name == run.Name
	})
	n := 0
	for _, other := range all[here+1:] {
		if other.Namespace != run.Namespace ||
			other.Labels[workflowrun.ComponentLabel] != component ||
			other.Labels[workflowrun.ProjectLabel] != run.Labels[workflowrun.ProjectLabel] ||
			runstatus.Phase(other) != runstatus.TaskSucceeded {
			continue
		}
		if n++; n > looked {
			break
		}
		details, err := from.Details(ctx, other)
		if err != nil {
			return nil, err
		}
		report, err := buildreport.Parse([]byte(outputOf(other, details, buildreport.Name)))
		if err == nil && len(report.Images) > 0 {
			return &Before{Name: word(other.Name), Images: report.Images}, nil
		}
	}
	return nil, nil
}
