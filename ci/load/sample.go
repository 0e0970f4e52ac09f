package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// reading is what a controller told of itself at one moment.
type reading struct {
	at       time.Time
	argo     controller
	manager  controller
	programs map[string]usage
}

// controller is what a controller tells: objects that wait to be looked at, looks, and requests.
type controller struct{ queue, looked, requests float64 }

// managerMetrics is where ci/cluster has OpenChoreo's manager tell its metrics.
const managerMetrics = "http://127.0.0.1:8082/metrics"

func (e *experiment) readArgo(ctx context.Context) (c controller, err error) {
	const prefix = "argo_workflows_"
	url, err := e.argoMetrics(ctx)
	if err != nil {
		return c, err
	}
	all, err := scrape(
		ctx, url, prefix+"queue_depth_gauge", prefix+"operation_duration_seconds_count", prefix+"k8s_request_total",
	)
	return controller{
		queue:    sum(all, prefix+"queue_depth_gauge", "queue_name", "workflow_queue"),
		looked:   sum(all, prefix+"operation_duration_seconds_count"),
		requests: sum(all, prefix+"k8s_request_total"),
	}, err
}

func readManager(ctx context.Context) (controller, error) {
	all, err := scrape(
		ctx, managerMetrics, "workqueue_depth", "controller_runtime_reconcile_total", "rest_client_requests_total",
	)
	return controller{
		queue:    sum(all, "workqueue_depth", "name", "workflowrun"),
		looked:   sum(all, "controller_runtime_reconcile_total", "controller", "workflowrun"),
		requests: sum(all, "rest_client_requests_total"),
	}, err
}

// sample notes how it goes. While Argo's controller tells nothing, since it is busy or away, it counts as before.
func (e *experiment) sample(ctx context.Context) error {
	now := reading{at: time.Now()}
	var err error
	if now.programs, err = usages("/proc", programs); err != nil {
		return err
	}
	if now.argo, err = e.readArgo(ctx); err != nil {
		say("Argo's controller does not tell its metrics: %v", err)
		now.argo = e.last.argo
	}
	if now.manager, err = readManager(ctx); err != nil {
		return err
	}
	phases, err := e.phases(ctx)
	if err != nil {
		return err
	}
	s := between(e.last, now)
	s.At = seconds(now.at.Sub(e.began))
	s.Running, s.Ended = phases["Running"], phases["ended"]
	for name, u := range now.programs {
		p := e.result.Programs[name]
		p.MiB = max(p.MiB, mebibytes(u.RSS))
		// A program that was started anew begins at nothing.
		if before := e.last.programs[name]; before.PID == u.PID {
			p.Seconds += (u.CPU - before.CPU).Seconds()
		}
		e.result.Programs[name] = p
	}
	e.last = now
	e.result.Samples = append(e.result.Samples, s)
	return nil
}

// between is what went on between two readings.
func between(last, now reading) sample {
	s := sample{
		ArgoMiB: mebibytes(now.programs[argoProgram].RSS), ManagerMiB: mebibytes(now.programs["manager"].RSS),
		ArgoQueue: now.argo.queue, RunsQueue: now.manager.queue,
	}
	passed := now.at.Sub(last.at).Seconds()
	if last.at.IsZero() || passed <= 0 {
		return s
	}
	each := func(now, last float64) float64 { return round(max(now-last, 0) / passed) }
	cpu := func(name string) float64 {
		if now.programs[name].PID != last.programs[name].PID {
			return 0
		}
		return each(now.programs[name].CPU.Seconds(), last.programs[name].CPU.Seconds())
	}
	s.ArgoCPU, s.ManagerCPU = cpu(argoProgram), cpu("manager")
	s.ArgoRate = each(now.argo.requests, last.argo.requests)
	s.RunsRate = each(now.manager.requests, last.manager.requests)
	for name := range now.programs {
		s.Cores += cpu(name)
	}
	s.Cores = round(s.Cores)
	return s
}

func mebibytes(bytes int64) float64 { return round(float64(bytes) / (1 << 20)) }

func round(f float64) float64 { return float64(int64(f*100+0.5)) / 100 }

// about says which commit was measured, when, and on what.
func about(ctx context.Context) (string, error) {
	commit, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--exclude", "*").Output()
	if err != nil {
		return "", fmt.Errorf("name the commit: %w", err)
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	model := "unknown processors"
	if found := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(info); found != nil {
		model = string(found[1])
	}
	return fmt.Sprintf("%s, %s, %d processors (%s)", strings.TrimSpace(string(commit)),
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), strings.TrimSpace(model)), nil
}
