package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/google/renameio/v2/maybe"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// Record writes down a run while it runs. It is a pipeline.Observer; what it cannot write, End returns.
type Record struct {
	store  Store
	dir    string
	unlock func()

	mu  sync.Mutex
	run *v1alpha1.WorkflowRun
	log *os.File // of the task that runs

	details map[string]runstatus.Detail
	errs    []error
}

// Create begins the record of a run, in place of an earlier one of the same name. The workflow is the rendered one.
func (s Store) Create(run *v1alpha1.WorkflowRun, workflow map[string]any) (*Record, error) {
	dir, err := s.folder(run)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, fmt.Errorf("run %s/%s: %w", run.Namespace, run.Name, err)
	}
	r := &Record{
		store: s, dir: dir, unlock: unlock, run: run.DeepCopy(), details: map[string]runstatus.Detail{},
	}
	r.run.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkflowRun"}
	r.run.CreationTimestamp = *now()
	r.run.Status = v1alpha1.WorkflowRunStatus{StartedAt: now()}
	r.run.Status.RunReference = reference(workflow)
	runstatus.Pending(r.run)
	err = errors.Join(
		forget(dir), os.WriteFile(filepath.Join(dir, lockFile), []byte(strconv.Itoa(os.Getpid())), 0o644),
	)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, logFolder), 0o755)
	}
	if err == nil {
		err = write(filepath.Join(dir, workflowFile), workflow)
	}
	if err == nil {
		err = write(filepath.Join(dir, runFile), r.run)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return r, nil
}

func reference(workflow map[string]any) *v1alpha1.ResourceReference {
	text := func(object map[string]any, key string) string { s, _ := object[key].(string); return s }
	metadata, _ := workflow["metadata"].(map[string]any)
	return &v1alpha1.ResourceReference{
		APIVersion: text(workflow, "apiVersion"), Kind: text(workflow, "kind"), Name: text(metadata, "name"),
		Namespace: text(metadata, "namespace"),
	}
}

// now is the time as Kubernetes keeps it: in whole seconds.
func now() *metav1.Time {
	t := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	return &t
}

func (r *Record) save() { r.note(write(filepath.Join(r.dir, runFile), r.run)) }

func (r *Record) note(err error) {
	if err != nil {
		r.errs = append(r.errs, err)
	}
}

// Started implements pipeline.Observer.
func (r *Record) Started(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	runstatus.Started(r.run)
	r.details[step] = runstatus.Detail{StartedAt: time.Now().UTC().Truncate(time.Millisecond)}
	log, err := os.Create(r.store.Log(r.run, step))
	r.note(err)
	r.log = log
	// As in a cluster, a task is listed once it has started: Argo has no pod for it before.
	r.run.Status.Tasks = append(r.run.Status.Tasks, v1alpha1.WorkflowTask{
		Name:      step,
		Phase:     runstatus.TaskRunning,
		StartedAt: now(),
	})
	r.save()
}

// Line implements pipeline.Observer.
func (r *Record) Line(_, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil {
		_, err := fmt.Fprintln(r.log, text)
		r.note(err)
	}
}

// Ended implements pipeline.Observer.
func (r *Record) Ended(step string, how outcome.Report, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLog()
	task := &r.run.Status.Tasks[len(r.run.Status.Tasks)-1]
	task.Phase, task.CompletedAt = runstatus.TaskSucceeded, now()
	if how.Failed() { // of a task that succeeded Argo has no message
		task.Phase, task.Message = runstatus.TaskFailed, how.TerminationMessage()
	}
	r.save()
	detail := r.details[step]
	detail.DurationMs, detail.Reason = max(1, took.Milliseconds()), how.Reason
	detail.Message, detail.Hint, detail.PeakMemory = how.Message, how.Hint, how.PeakMemoryBytes
	r.details[step] = detail
	r.saveDetails()
}

// Keep keeps the output parameters of the tasks, by their names.
func (r *Record) Keep(outputs map[string]map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for step, values := range outputs {
		detail := r.details[step]
		detail.Outputs = values
		r.details[step] = detail
	}
	r.saveDetails()
}

func (r *Record) saveDetails() {
	raw, err := json.MarshalIndent(r.details, "", "  ")
	if err == nil {
		err = maybe.WriteFile(filepath.Join(r.dir, detailsFile), raw, 0o644)
	}
	r.note(err)
}

func (r *Record) closeLog() {
	if r.log != nil {
		r.note(r.log.Close())
		r.log = nil
	}
}

// End writes how the run ended, with annotations that it got meanwhile. A task that an error kept from ending has phase
// Error. It returns the run and what could not be written.
func (r *Record) End(err error, annotations map[string]string) (*v1alpha1.WorkflowRun, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLog()
	if tasks := r.run.Status.Tasks; len(tasks) > 0 && tasks[len(tasks)-1].Phase == runstatus.TaskRunning {
		last := &tasks[len(tasks)-1]
		last.Phase, last.CompletedAt, last.Message = runstatus.TaskError, now(), quote.Text(err.Error(), 4096)
	}
	r.run.Status.CompletedAt = now()
	if len(annotations) > 0 {
		r.run.Annotations = annotations
	}
	runstatus.End(r.run, err == nil)
	r.save()
	r.unlock()
	return r.run, errors.Join(r.errs...)
}
