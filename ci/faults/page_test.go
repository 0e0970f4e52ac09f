package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A record is what a run of the matrix found: reliability.json.
type record struct {
	Day    string // of the newest cell
	Chance uint64 // that decided the moments
	CPUs   int
	Cells  []found
}

// update puts what was found on the page in a folder, in the place of what was found of those cells before. What is no
// cell any more is left out.
func update(dir string, fresh []found) error {
	kept := filepath.Join(dir, "reliability.json")
	var r record
	raw, err := os.ReadFile(kept)
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	all := map[string]found{}
	for _, f := range append(r.Cells, fresh...) {
		all[f.Step+"/"+f.Fault] = f
	}
	r = record{Day: time.Now().UTC().Format(time.DateOnly), Chance: *chance, CPUs: runtime.NumCPU()}
	for _, c := range cells() {
		if f, ok := all[c.String()]; ok {
			r.Cells = append(r.Cells, f)
		}
	}
	if raw, err = json.MarshalIndent(r, "", " "); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(kept, append(raw, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "reliability.md"), []byte(page(r)), 0o644),
	)
}

const head = `# Reliability

<!-- Written by make faults: do not edit. -->

` + "`make faults`" + ` breaks something while a step runs, looks at what the step says and leaves, mends it, and
runs the step again; it writes this page. ` + "`make faults ONLY=<regular expression>`" + ` takes some cells, and
` + "`CHANCE=<number>`" + ` other moments. The steps are the programs of a release, in file systems of their own. Git
server, registry, OpenChoreo API, identity provider and DNS are real servers, one set for each cell, and the network
between is where the faults are.

A cell holds only if all of this does:

- The step ends within 8 minutes, with one of the reasons that the cell allows, and its exit code is the reason's.
  *Outlasted* means that it succeeded, and then the result is the right one.
- Nothing half-made can be taken for good: the workspace has no source, or the whole; no image, or the one that an
  undisturbed build makes; each tag in the registry has all its manifests and blobs; the component has no Workload, or
  the one of this run.
- The step has left no process, and no temporary file in the workspace or in /tmp. Of one that is killed, only processes
  count: its own file systems end with its pod, and what it left in the workspace is gone after the next attempt.
- Run again in the same workspace, the step succeeds with the same digest as without a fault.
- Of generate-workload-cr: when a newer run has registered its image after that, and this one runs once more, the newer
  image stays.

Operations are tried three times here, not seven as by default, and once where the network is cut for good, so that
faults that last are over sooner. A server's clock stands for the step's own: a Go program cannot be given another
clock, and a certificate or a token that is not valid now looks the same from both sides. Memory is limited by a
cgroup, and disks are file systems in memory. Packets are lost by the DNS server, which hears one of two questions.
Network faults are those of one server at a time. buildpacks-build runs in one container here, and in three in a
pod.
`

const clusterHead = `
## In a cluster

What only a cluster can show is in [ci/e2e](../../ci/e2e/README.md), which runs each night.

| fault | test |
|---|---|
`

// clusterCells are faults that tests of ci/e2e show.
var clusterCells = []struct{ fault, test string }{
	{"a registry that answers 503", "TestTemplates/a registry that answers 503 for 20 s"},
	{"OpenChoreo's API restarted in the last step", "TestTemplates/an API server that restarts in the last step"},
	{"several runs of a component at once, and a late build of an old commit", "TestTemplates/the newest run wins"},
	{"a run deleted while it builds", "TestTemplates/a run that is deleted"},
	{"a Secret that comes late, or never", "TestTemplates/private repositories"},
	{"a BuildKit daemon killed, and one drained, while it builds", "TestComponents/buildkit-daemon"},
	{"a receiver of traces gone", "TestObservability"},
	{"a pod that is evicted, as when its node is drained: Cancelled, or Argo starts it anew",
		"TestFaults/a pod that is evicted"},
	{"a node that is gone and does not come back: Argo starts the pod anew on another one, or the run fails",
		"TestFaults/a node that is gone and does not come back"},
	{"Argo's controller restarted while a step runs", "TestFaults/Argo's controller restarted"},
	{"OpenChoreo's controller restarted while a step runs", "TestFaults/OpenChoreo's controller restarted"},
	{"the kubelet restarted while a step runs", "TestFaults/the kubelet restarted"},
	{"the API server's store gone for a while", "TestFaults/the API server's store gone for a while"},
	{"an API server's store that answers in a fifth of each second", "TestFaults/a slow store of the API server"},
	{"a pod that cannot start: no volume, no Secret, no image", "TestDoctor"},
}

const notShown = `
The volumes of the node that is gone come back with the next one there. Where a storage class has volumes of one node
alone, they go with it, and a run's next pod waits for that node. Then the setting run-deadline ends the run, and its
claim goes; by default nothing does. No test shows that.
`

// page writes what was found for people.
func page(r record) string {
	var b strings.Builder
	b.WriteString(head)
	ended := map[outcome.Reason]int{}
	for _, f := range r.Cells {
		ended[f.Reason]++
	}
	fmt.Fprintf(&b, "\n%d cells, on %s with %d processors, at moments by CHANCE=%d: %d outlasted, and %d ended with "+
		"another reason. After each the step succeeded.\n",
		len(r.Cells), r.Day, r.CPUs, r.Chance, ended[outlasted], len(r.Cells)-ended[outlasted])
	for _, s := range steps {
		fmt.Fprintf(&b, "\n## %s\n\n| fault | outcome | after, s | run again |\n|---|---|---|---|\n", s.name)
		for _, f := range r.Cells {
			if f.Step == s.name {
				how := string(f.Reason)
				if f.Reason == outlasted {
					how = "outlasted"
				}
				fmt.Fprintf(&b, "| %s | %s | %.1f | %s |\n", f.Fault, how, f.Seconds, f.Retry)
			}
		}
	}
	b.WriteString(clusterHead)
	for _, c := range clusterCells {
		fmt.Fprintf(&b, "| %s | `%s` |\n", c.fault, c.test)
	}
	b.WriteString(notShown)
	return b.String()
}

const docsDir = "../../docs/reference"

// The page has exactly the matrix's cells, each with an outcome that the cell allows, and says what the record does.
func TestPage(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(docsDir, "reliability.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r record
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	var has, want []string
	allowed := map[string][]outcome.Reason{}
	for _, c := range cells() {
		want = append(want, c.String())
		allowed[c.String()] = c.want
	}
	for _, f := range r.Cells {
		cell := f.Step + "/" + f.Fault
		has = append(has, cell)
		if !slices.Contains(allowed[cell], f.Reason) || f.Retry != outcome.Succeeded {
			t.Errorf("%s ended with %s, and then with %s", cell, f.Reason, f.Retry)
		}
	}
	if !slices.Equal(has, want) {
		t.Errorf("the page has %d cells, the matrix %d: run make faults", len(has), len(want))
	}
	if shown, err := os.ReadFile(filepath.Join(docsDir, "reliability.md")); err != nil || string(shown) != page(r) {
		t.Errorf("reliability.md is not what make faults writes of reliability.json: %v", err)
	}
	if len(want) < 100 {
		t.Errorf("there are %d cells", len(want))
	}
}

// The tests that the page names are there.
func TestClusterCells(t *testing.T) {
	var all strings.Builder
	files, err := filepath.Glob("../e2e/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	for _, c := range clusterCells {
		test, part, _ := strings.Cut(c.test, "/")
		if source := all.String(); !strings.Contains(source, "func "+test+"(") ||
			part != "" && !strings.Contains(source, `"`+part) {
			t.Errorf("there is no test %s", c.test)
		}
	}
}
