package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	argo "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	"github.com/openchoreo/openchoreo/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/stepwright/stepwright/templates"
)

// simulatedNodes have room for the pods of a thousand runs.
const simulatedNodes = 40

// tries is how often an experiment is made of which no run succeeds: a single run fails now and then, as all do, and
// then shows nothing to compare others with.
const tries = 5

// measureAll makes all experiments, one after the other, inside the cluster.
func (o options) measureAll(ctx context.Context) error {
	c, err := connect(os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	if err := c.install(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "load-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	steps, err := parseSteps(o.steps)
	if err != nil {
		return err
	}
	stop, err := startNodes(ctx, c.core, dir, simulatedNodes, steps, o.failures)
	if err != nil {
		return err
	}
	defer stop()
	outputs, err := c.realOutputs(ctx, o.git)
	if err != nil {
		return err
	}
	about, err := about(ctx) // before an experiment changes the page
	if err != nil {
		return err
	}
	var errs []error
	for _, runs := range o.runs {
		for _, name := range o.settings {
			errs = append(errs, step(ctx, fmt.Sprintf("%d runs, %s", runs, name), func(ctx context.Context) error {
				for range tries {
					e := experiment{
						options: o, cluster: c, steps: steps, outputs: outputs, runs: runs, name: name, about: about,
						argo: o.settingsOf(name, runs),
					}
					if err := e.make(ctx); err != nil || e.result.Succeeded > 0 {
						return err
					}
				}
				return fmt.Errorf("no run succeeded in %d tries", tries)
			}))
		}
	}
	return errors.Join(errs...)
}

// realOutputs builds the application once on the real node, and returns what its steps gave to Argo.
func (c *cluster) realOutputs(ctx context.Context, git string) (map[string]*argo.Outputs, error) {
	const name = "first"
	if err := c.create(ctx, workflowRun(namespace, name, component, templates.DockerfileBuilder, git)); err != nil {
		return nil, err
	}
	var outputs map[string]*argo.Outputs
	if err := poll(ctx, 10*time.Minute, time.Second, "a first run", func(ctx context.Context) error {
		var found *argo.Workflow
		if err := c.eachWorkflow(ctx, func(w *argo.Workflow) { found = w }); err != nil {
			return err
		}
		switch {
		case found == nil || !found.Status.Fulfilled():
			return errors.New("it has not ended")
		case found.Status.Phase != argo.WorkflowSucceeded:
			return final{errors.New("it failed: " + found.Status.Message)}
		}
		stepOf := map[string]string{}
		ofRuns := metav1.ListOptions{LabelSelector: workflowLabel}
		pods, err := c.core.CoreV1().Pods(metav1.NamespaceAll).List(ctx, ofRuns)
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			stepOf[p.Annotations[nodeIDKey]] = p.Labels[stepLabel]
		}
		outputs = stepOutputs(found, stepOf)
		return nil
	}); err != nil {
		return nil, err
	}
	return outputs, c.clear(ctx)
}

// An experiment is so many runs with the same settings.
type experiment struct {
	options
	*cluster
	steps   []work
	outputs map[string]*argo.Outputs
	runs    int
	name    string
	about   string
	argo    argoSettings

	began  time.Time
	last   reading
	result result
}

func (e *experiment) make(ctx context.Context) error {
	if err := errors.Join(e.configure(ctx, e.argo), restartManager(ctx)); err != nil {
		return err
	}
	e.result = result{
		Runs: e.runs, Name: e.name, Rate: e.rate, Argo: e.argo, Steps: e.steps, Failures: e.failures, About: e.about,
		Programs: map[string]peak{},
	}
	before, err := inEtcd(ctx, etcdURL)
	if err != nil {
		return err
	}
	asked, err := e.requests(ctx)
	if err != nil {
		return err
	}
	executing, stop := context.WithCancel(ctx)
	defer stop()
	executor := newExecutor(e.executor, e.steps, e.outputs)
	go executor.watch(executing, e.core)

	e.began = time.Now()
	if err := e.sample(ctx); err != nil {
		return err
	}
	created := make(chan error, 1)
	go func() { created <- errors.Join(e.createAll(ctx), e.createNeighbours(ctx)) }()
	ended := e.wait(ctx)
	if err := errors.Join(<-created, ended); err != nil {
		say("%v", err)
	}
	if err := e.gather(ctx, executor); err != nil {
		return err
	}
	if err := e.account(ctx, before, asked); err != nil {
		return err
	}
	stop()
	return errors.Join(append(executor.faulty(), update(e.docs, e.result), ended)...)
}

// realRuns is how many of the runs are real.
func (e *experiment) realRuns() int {
	if e.runs < 10 {
		return 0
	}
	return e.real
}

func (e *experiment) createAll(ctx context.Context) error {
	var pause time.Duration
	if e.rate > 0 {
		pause = time.Duration(float64(time.Minute) / e.rate)
	}
	for i := range e.runs {
		of, workflow := componentOf(i), simulated
		if i < e.realRuns() {
			of, workflow = component, templates.DockerfileBuilder
		}
		name := fmt.Sprintf("load-%04d", i)
		if err := e.create(ctx, workflowRun(namespace, name, of, workflow, e.git)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
	return nil
}

// The neighbour's runs, which begin one after the other while the others are at work.
const (
	neighbours     = 5
	neighboursFrom = 10 // runs of the others
	neighbourPause = 5 * time.Second
)

// visitors is how many runs of the neighbour there are.
func (e *experiment) visitors() int {
	if e.runs < neighboursFrom {
		return 0
	}
	return neighbours
}

func (e *experiment) createNeighbours(ctx context.Context) error {
	for i := range e.visitors() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(neighbourPause):
		}
		name := fmt.Sprintf("visit-%04d", i)
		if err := e.create(ctx, workflowRun(neighbour, name, componentOf(0), simulated, e.git)); err != nil {
			return err
		}
	}
	return nil
}

// every is the time between two samples.
const every = 5 * time.Second

// wait returns when all runs have ended, for Argo and for OpenChoreo. In the middle it kills Argo's controller.
func (e *experiment) wait(ctx context.Context) error {
	if err := poll(ctx, e.limit, every, "end of all runs", func(ctx context.Context) error {
		if err := e.sample(ctx); err != nil {
			return err
		}
		last := e.result.Samples[len(e.result.Samples)-1]
		if len(e.result.Samples)%12 == 0 {
			say("after %.0f s: %d at work, %d ended; Argo's controller has %.0f MiB", last.At, last.Running, last.Ended,
				last.ArgoMiB)
			if err := e.refused(ctx); err != nil {
				return err
			}
		}
		if e.restart && e.runs >= 100 && e.result.Restart == nil && last.Ended >= e.runs/2 {
			if err := e.kill(ctx); err != nil {
				return err
			}
		}
		if last.Ended < e.runs+e.visitors() {
			return fmt.Errorf("%d of %d have", last.Ended, e.runs+e.visitors())
		}
		return nil
	}); err != nil {
		return err
	}
	return poll(ctx, 5*time.Minute, every, "OpenChoreo's word of all runs", func(ctx context.Context) error {
		ended := 0
		if err := e.eachRun(ctx, func(r *v1alpha1.WorkflowRun) {
			if completed(r) != nil {
				ended++
			}
		}); err != nil {
			return err
		}
		if ended < e.runs+e.visitors() {
			return fmt.Errorf("it has told of %d of %d", ended, e.runs+e.visitors())
		}
		return nil
	})
}

// refused is an error when OpenChoreo makes no Workflow of a run.
func (e *experiment) refused(ctx context.Context) (refused error) {
	err := e.eachRun(ctx, func(r *v1alpha1.WorkflowRun) {
		if c := completed(r); c != nil && r.Status.RunReference == nil {
			refused = final{fmt.Errorf("OpenChoreo refuses %s: %s: %s", r.Name, c.Reason, c.Message)}
		}
	})
	return errors.Join(err, refused)
}

func completed(run *v1alpha1.WorkflowRun) *metav1.Condition {
	for i, c := range run.Status.Conditions {
		if c.Type == "WorkflowCompleted" && c.Status == metav1.ConditionTrue {
			return &run.Status.Conditions[i]
		}
	}
	return nil
}

// kill ends Argo's controller as the kernel does when memory is short, and sees it come back.
func (e *experiment) kill(ctx context.Context) error {
	used, err := usages("/proc", []string{argoProgram})
	if err != nil {
		return err
	}
	before := e.result.Samples[len(e.result.Samples)-1].ArgoQueue
	killed := time.Now()
	e.result.Restart = &restart{At: seconds(killed.Sub(e.began))}
	if err := syscall.Kill(used[argoProgram].PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill Argo's controller: %w", err)
	}
	err = poll(ctx, 3*time.Minute, time.Second, "Argo's controller after its death", func(ctx context.Context) error {
		if time.Since(e.last.at) > every {
			if err := e.sample(ctx); err != nil {
				return err
			}
		}
		read, err := e.readArgo(ctx)
		if err != nil {
			return err
		}
		if e.result.Restart.Back == 0 {
			e.result.Restart.Back = seconds(time.Since(killed))
		}
		if read.looked == 0 || read.queue > max(before, 5) {
			return fmt.Errorf("its queue has %.0f, before its death %.0f", read.queue, before)
		}
		e.result.Restart.Steady = seconds(time.Since(killed))
		return nil
	})
	if err != nil {
		say("%v", err)
	}
	return nil
}

// gather reads the times of all runs.
func (e *experiment) gather(ctx context.Context, executor *executor) error {
	type times struct {
		created, told time.Time
		neighbour     bool
	}
	runs := map[string]times{}
	if err := e.eachRun(ctx, func(r *v1alpha1.WorkflowRun) {
		t := times{created: r.CreationTimestamp.Time, neighbour: r.Namespace == neighbour}
		if c := completed(r); c != nil {
			t.told = c.LastTransitionTime.Time
		}
		runs[r.Name] = t
	}); err != nil {
		return err
	}
	var queue, overhead, told, visited []float64
	var last time.Time
	err := e.eachWorkflow(ctx, func(w *argo.Workflow) {
		status, run := w.Status, runs[w.Name]
		if status.FinishedAt.IsZero() {
			return
		}
		if status.FinishedAt.After(last) {
			last = status.FinishedAt.Time
		}
		took := status.FinishedAt.Sub(status.StartedAt.Time)
		waited := status.StartedAt.Sub(run.created)
		if run.neighbour {
			visited = append(visited, seconds(waited))
			e.result.Visitors++
			return
		}
		if w.Spec.NodeSelector[nodeLabel] == "" {
			e.result.Real = append(e.result.Real, realRun{
				Succeeded: status.Phase == argo.WorkflowSucceeded, Seconds: seconds(took), Queue: seconds(waited),
				Working: seconds(podSeconds(w)),
			})
		} else {
			queue = append(queue, seconds(waited))
			if status.Phase == argo.WorkflowSucceeded {
				overhead = append(overhead, seconds(took-executor.worked(w.Name)))
			}
		}
		if !run.told.IsZero() {
			told = append(told, seconds(run.told.Sub(status.FinishedAt.Time)))
		}
		if status.Phase == argo.WorkflowSucceeded {
			e.result.Succeeded++
		} else {
			e.result.Failed++
		}
	})
	e.result.Unended = e.runs + e.visitors() - e.result.Succeeded - e.result.Failed - e.result.Visitors
	e.result.Visited = quantilesOf(visited)
	e.result.Queue, e.result.Overhead, e.result.Told = quantilesOf(queue), quantilesOf(overhead), quantilesOf(told)
	e.result.Seconds = seconds(last.Sub(e.began))
	return err
}

// podSeconds is how long the pods of a run were there, by Argo's nodes.
func podSeconds(w *argo.Workflow) (sum time.Duration) {
	for _, n := range w.Status.Nodes {
		if n.Type == argo.NodeTypePod && !n.FinishedAt.IsZero() {
			sum += n.FinishedAt.Sub(n.StartedAt.Time)
		}
	}
	return sum
}

// account says what the runs have cost the API server and etcd, and what is left of them when they are deleted.
func (e *experiment) account(ctx context.Context, before map[string]stored, asked requests) error {
	now, err := e.requests(ctx)
	if err != nil {
		return err
	}
	e.result.RequestsTo = map[string]float64{}
	for resource, n := range now.to {
		if each := (n - asked.to[resource]) / float64(e.runs+e.visitors()); each >= 0.5 {
			e.result.RequestsTo[resource] = each
		}
	}
	e.result.Requests = (now.all - asked.all) / float64(e.runs+e.visitors())
	held, err := inEtcd(ctx, etcdURL)
	if err != nil {
		return err
	}
	e.result.Objects = more(held, before)
	if e.result.Claims, e.result.Volumes, err = e.claims(ctx); err != nil {
		return err
	}
	// What is known so far stays known, whatever happens while runs are deleted.
	if err := update(e.docs, e.result); err != nil || e.result.Unended > 0 {
		return err // deleting what is at work tells nothing of what ended
	}
	began := time.Now()
	if err := e.clear(ctx); err != nil {
		return err
	}
	e.result.ClearSeconds = seconds(time.Since(began))
	if held, err = inEtcd(ctx, etcdURL); err != nil {
		return err
	}
	e.result.Left = more(held, before)
	return nil
}

// requests are those that the API server has answered, without those of this program and without watches.
type requests struct {
	all float64
	to  map[string]float64
}

func (e *experiment) requests(ctx context.Context) (r requests, err error) {
	mine := float64(e.asked.Load())
	raw, err := e.core.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return r, err
	}
	const name = "apiserver_request_total"
	all, err := readSeries(strings.NewReader(string(raw)), oneOf([]string{name}))
	r.to = map[string]float64{}
	for _, s := range all {
		if s.Labels["verb"] != "WATCH" && s.Labels["verb"] != "CONNECT" {
			r.all += s.Value
			r.to[s.Labels["resource"]+" "+s.Labels["verb"]] += s.Value
		}
	}
	r.all -= mine
	return r, err
}

func (c *cluster) create(ctx context.Context, run *unstructured.Unstructured) error {
	_, err := c.dynamic.Resource(workflowRuns).Namespace(run.GetNamespace()).Create(ctx, run, metav1.CreateOptions{})
	return err
}
