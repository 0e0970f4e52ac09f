// Package history keeps what runs on this machine came to, in a folder per run: the WorkflowRun with its status as
// OpenChoreo's controller would write it, the rendered Argo Workflow, and one log file per task.
package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2/maybe"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/filelock"
)

// Store is a folder of runs: <namespace>/<name>/.
type Store struct {
	Dir string
}

// The files of a run. Logs are in a folder, named after their tasks.
const (
	runFile      = "workflowrun.yaml"
	workflowFile = "workflow.yaml"
	reportFile   = "report.html"
	lockFile     = "lock" // held while the run runs, and has the number of the process
	detailsFile  = "details.json"
	logFolder    = "logs"
)

// List returns the runs, the newest first.
func (s Store) List() ([]*v1alpha1.WorkflowRun, error) {
	files, err := filepath.Glob(filepath.Join(s.Dir, "*", "*", runFile))
	if err != nil {
		return nil, err
	}
	type entry struct {
		run     *v1alpha1.WorkflowRun
		created time.Time
	}
	var all []entry
	for _, file := range files {
		dir := filepath.Dir(file)
		run, err := read(dir)
		if err != nil {
			return nil, err
		}
		created := run.CreationTimestamp.Time
		// The timestamp is in whole seconds. The file that is written at the beginning only tells the rest, unless
		// somebody has copied it since.
		if info, err := os.Stat(filepath.Join(dir, workflowFile)); err == nil {
			if after := info.ModTime().Sub(created); after > 0 && after < 2*time.Second {
				created = info.ModTime()
			}
		}
		all = append(all, entry{run, created})
	}
	slices.SortStableFunc(all, func(a, b entry) int { return b.created.Compare(a.created) })
	runs := make([]*v1alpha1.WorkflowRun, len(all))
	for i, e := range all {
		runs[i] = e.run
	}
	return runs, nil
}

// Get returns a run. The namespace may be empty where only one has a run of that name. The error may be a
// *runstatus.NotFoundError.
func (s Store) Get(namespace, name string) (*v1alpha1.WorkflowRun, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var found, there []string
	var run *v1alpha1.WorkflowRun
	for _, r := range all {
		there = append(there, r.Namespace+"/"+r.Name)
		if r.Name == name && (namespace == "" || r.Namespace == namespace) {
			found, run = append(found, r.Namespace), r
		}
	}
	switch len(found) {
	case 0:
		return nil, &runstatus.NotFoundError{Name: name, There: there}
	case 1:
		return run, nil
	}
	return nil, &runstatus.AmbiguousError{Name: name, Namespaces: found}
}

// Log is the path of a task's log; the file is there once the task has started.
func (s Store) Log(run *v1alpha1.WorkflowRun, task string) string {
	return filepath.Join(s.Dir, run.Namespace, run.Name, logFolder, task+".log")
}

// Details tells what is known of a run's tasks besides its status, by their names: of an older version's runs, nothing.
func (s Store) Details(run *v1alpha1.WorkflowRun) (map[string]runstatus.Detail, error) {
	raw, err := os.ReadFile(filepath.Join(s.Dir, run.Namespace, run.Name, detailsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all map[string]runstatus.Detail
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("%s of run %s/%s: %w", detailsFile, run.Namespace, run.Name, err)
	}
	return all, nil
}

// Report is the path of the picture of a run, beside its other files.
func (s Store) Report(run *v1alpha1.WorkflowRun) string {
	return filepath.Join(s.Dir, run.Namespace, run.Name, reportFile)
}

// folder is the folder of a run; names come from a developer's file and must not lead elsewhere.
func (s Store) folder(run *v1alpha1.WorkflowRun) (string, error) {
	for _, name := range []string{run.Namespace, run.Name} {
		if faults := validation.IsDNS1123Subdomain(name); len(faults) > 0 {
			return "", fmt.Errorf("%q is no name of a namespace or run: %s", name, faults[0])
		}
	}
	return filepath.Join(s.Dir, run.Namespace, run.Name), nil
}

// read reads a run. One that says it is running and is not was killed: to OpenChoreo, its Argo Workflow would be gone.
func read(dir string) (*v1alpha1.WorkflowRun, error) {
	raw, err := os.ReadFile(filepath.Join(dir, runFile))
	if err != nil {
		return nil, err
	}
	run := new(v1alpha1.WorkflowRun)
	if err := yaml.UnmarshalStrict(raw, run); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, runFile), err)
	}
	if runstatus.Completed(run) {
		return run, nil
	}
	unlock, err := lock(dir)
	if errors.Is(err, errRunning) {
		return run, nil
	}
	if err != nil {
		return nil, err
	}
	unlock()
	runstatus.Gone(run)
	return run, nil
}

var errRunning = errors.New("it is running")

// lock says that a run runs, until it is unlocked or the process ends.
func lock(dir string) (unlock func(), err error) {
	unlock, err = filelock.Try(filepath.Join(dir, lockFile))
	if _, held := errors.AsType[*filelock.HeldError](err); held {
		return nil, errRunning
	}
	return unlock, err
}

// Cancel tells the process that runs a run to stop, as an interrupt does. It does not wait for it.
func (s Store) Cancel(run *v1alpha1.WorkflowRun) error {
	dir, err := s.folder(run)
	if err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err == nil {
		unlock()
		return fmt.Errorf("run %s/%s does not run any more", run.Namespace, run.Name)
	}
	if !errors.Is(err, errRunning) {
		return err
	}
	// Who holds the lock has written this, and lives.
	text, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	id, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || id < 1 {
		return fmt.Errorf(
			"run %s/%s: an older stepwright runs it, which does not say in which process: interrupt it there",
			run.Namespace, run.Name,
		)
	}
	process, err := os.FindProcess(id)
	if err != nil {
		return err
	}
	return process.Signal(os.Interrupt)
}

// write replaces a file at once: readers never see half of it.
func write(path string, object any) error {
	raw, err := yaml.Marshal(object)
	if err != nil {
		return err
	}
	return maybe.WriteFile(path, raw, 0o644)
}

// forget removes what an earlier run of the same name left.
func forget(dir string) error {
	for _, name := range []string{runFile, workflowFile, detailsFile, reportFile, logFolder} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
