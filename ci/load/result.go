package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// A result is what one experiment found.
type result struct {
	Runs     int
	Name     string // of the settings of Argo's controller
	Rate     float64
	Argo     argoSettings
	Real     []realRun
	Steps    []work
	Failures float64
	About    string // commit, day and machine

	Succeeded, Failed, Unended int
	Seconds                    float64 // from the first run's creation to the end of the last one

	Visitors int       // runs of another namespace, begun while the others were at work, that ended
	Visited  quantiles // the seconds that they waited as Queue says

	Queue    quantiles // seconds from creation to Argo's start
	Overhead quantiles // seconds from start to end in which no step worked, of runs that succeeded
	Told     quantiles // seconds from Argo's end to the WorkflowRun's

	Requests     float64            // to the API server for each run, without those of this program
	RequestsTo   map[string]float64 // the same by resource
	Objects      map[string]stored  // that the runs have left in etcd when all had ended
	Left         map[string]stored  // that deleted runs have left there
	Claims       int                // when all had ended
	Volumes      int
	ClearSeconds float64

	Programs map[string]peak
	Restart  *restart `json:",omitempty"`
	Samples  []sample
}

// realRun is a run on the real node.
type realRun struct {
	Succeeded      bool
	Seconds        float64 // from Argo's start to its end
	Queue, Working float64
}

// peak is what a program has used at most, and in all.
type peak struct {
	MiB     float64
	Seconds float64 // of CPU
}

// restart is the death of Argo's controller in the middle.
type restart struct {
	At     float64 // seconds since the beginning
	Back   float64 // seconds until its metrics were there again
	Steady float64 // seconds until its queue was as short as before; 0: not seen
}

// sample is how it went at one moment.
type sample struct {
	At                   float64 // seconds since the beginning
	Running, Ended       int
	ArgoMiB, ManagerMiB  float64
	ArgoCPU, ManagerCPU  float64 // processors
	ArgoQueue, RunsQueue float64 // Workflows and WorkflowRuns that wait to be looked at
	ArgoRate, RunsRate   float64 // requests each second, of Argo's controller and of OpenChoreo's
	Cores                float64 // processors that all measured programs take
}

// quantiles are of many figures.
type quantiles struct{ Median, P95, Max float64 }

func quantilesOf(all []float64) quantiles {
	if len(all) == 0 {
		return quantiles{}
	}
	sorted := slices.Sorted(slices.Values(all))
	at := func(q float64) float64 { return sorted[int(math.Ceil(q*float64(len(sorted))))-1] }
	return quantiles{at(0.5), at(0.95), at(1)}
}

// key tells experiments apart: a newer one replaces an older one of its key.
func (r result) key() [3]any { return [3]any{r.Runs, r.Name, r.Rate} }

// all is how many runs an experiment had, those of the neighbour included.
func (r result) all() int { return r.Succeeded + r.Failed + r.Unended + r.Visitors }

// total adds up what etcd holds of all kinds.
func total(all map[string]stored) (sum stored) {
	for _, s := range all {
		sum.Objects, sum.Bytes = sum.Objects+s.Objects, sum.Bytes+s.Bytes
	}
	return sum
}

// recordName is the file that the page is made of.
const recordName = "scale.json"

func readResults(dir string) (all []result, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &all)
	}
	return all, err
}

// update puts a result into the record and onto the page in a folder, in the place of an older one.
func update(dir string, fresh result) error {
	all, err := readResults(dir)
	if err != nil {
		return err
	}
	all = append(slices.DeleteFunc(all, func(old result) bool { return old.key() == fresh.key() }), fresh)
	slices.SortStableFunc(all, func(a, b result) int {
		if a.Runs != b.Runs {
			return a.Runs - b.Runs
		}
		return len(a.Name) - len(b.Name) // defaults first
	})
	raw, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	errs := []error{os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, recordName), append(raw, '\n'), 0o644)}
	for name, text := range pages(all) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return errors.Join(errs...)
}

// seconds is a duration with tenths.
func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*10) / 10 }
