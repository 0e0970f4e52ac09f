package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/template"
	"time"

	_ "embed"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// nodeLabel is on nodes that kwok plays, and tolerated by pods that may be there; stepLabel tells a pod's step.
const (
	nodeLabel = "stepwright.test/simulated"
	stepLabel = "stepwright.dev/step"
)

// startup is how long a simulated pod takes from its node to its containers.
const startup = time.Second

// work is how long one simulated step works.
type work struct {
	Step     string
	Duration time.Duration
}

// Milliseconds is the duration as kwok has it.
func (w work) Milliseconds() int64 { return w.Duration.Milliseconds() }

// Seconds is how long after its start, which is told in whole seconds, the step ends: not before it has worked.
func (w work) Seconds() float64 { return (w.Duration + time.Second - early).Seconds() }

// parseSteps reads durations of steps, such as build=30s,publish=5s.
func parseSteps(text string) ([]work, error) {
	var all []work
	for word := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(word, "=")
		duration, err := time.ParseDuration(value)
		if err != nil || name == "" || duration < time.Second {
			return nil, fmt.Errorf("-steps %s: %q is no step of a second or more, such as build=30s", text, word)
		}
		if slices.ContainsFunc(all, func(w work) bool { return w.Step == name }) {
			return nil, fmt.Errorf("-steps %s: there are two of %s", text, name)
		}
		all = append(all, work{name, duration})
	}
	return all, nil
}

//go:embed stages.yaml.tmpl
var stagesText string

var stagesTemplate = template.Must(template.New("stages").Parse(stagesText))

// stages are what kwok does with a pod: it starts after a second, works as long as its step does, and fails as often
// as the share of failures says.
func stages(steps []work, failures float64) ([]byte, error) {
	var out bytes.Buffer
	failing := int(failures*1000 + 0.5)
	err := stagesTemplate.Execute(&out, map[string]any{
		"Label": stepLabel, "Startup": startup.Milliseconds(), "Steps": steps, "Failing": failing,
		"Succeeding": 1000 - failing,
	})
	return out.Bytes(), err
}

// simulatedNode is a machine that is as large as those of clouds.
func simulatedNode(i int) *corev1.Node {
	name := fmt.Sprintf("simulated-%02d", i)
	capacity := corev1.ResourceList{
		"cpu": resource.MustParse("32"), "memory": resource.MustParse("128Gi"),
		"ephemeral-storage": resource.MustParse("1Ti"), "pods": resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", nodeLabel: "true",
		}},
		Spec: corev1.NodeSpec{
			Taints: []corev1.Taint{{Key: nodeLabel, Value: "true", Effect: corev1.TaintEffectNoSchedule}},
		},
		Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity},
	}
}

// startNodes has kwok play nodes, until stop is called.
func startNodes(
	ctx context.Context, client kubernetes.Interface, dir string, count int, steps []work, failures float64,
) (stop func() error, err error) {
	config, err := stages(steps, failures)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "stages.yaml")
	if err := os.WriteFile(file, config, 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "kwok.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	for i := range count {
		_, err := client.CoreV1().Nodes().Create(ctx, simulatedNode(i), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, err
		}
	}
	cmd := exec.Command(kwokBin, "--config", file, "--kubeconfig", os.Getenv("KUBECONFIG"),
		"--manage-nodes-with-label-selector", nodeLabel+"=true")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error { return errors.Join(cmd.Process.Signal(syscall.SIGKILL), ignoreKilled(cmd.Wait())) }
	if err := poll(ctx, time.Minute, time.Second, "simulated nodes", func(ctx context.Context) error {
		return nodesReady(ctx, client, count)
	}); err != nil {
		return nil, errors.Join(err, stop())
	}
	return stop, nil
}

func nodesReady(ctx context.Context, client kubernetes.Interface, count int) error {
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: nodeLabel})
	if err != nil {
		return err
	}
	ready := 0
	for _, n := range list.Items {
		if slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			ready++
		}
	}
	if ready < count {
		return fmt.Errorf("%d of %d are ready", ready, count)
	}
	return nil
}

// ignoreKilled takes a process's end by SIGKILL for what it is.
func ignoreKilled(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// final is an error that no further try changes.
type final struct{ error }

// poll tries until there is no error, or a final one.
func poll(
	ctx context.Context, limit, every time.Duration, what string, try func(context.Context) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		err := try(ctx)
		if _, ok := errors.AsType[final](err); ok || err == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not in %s: %w", what, limit, err)
		case <-tick.C:
		}
	}
}
