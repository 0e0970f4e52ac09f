package workflowplane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strings"

	"github.com/openchoreo/openchoreo/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/stepwright/stepwright/internal/controlplane/runstatus"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/replay"
)

// The container that a step is in, and Argo's names for how it marks pods. Where strangers' code runs, there is an init
// container before it, whose log main prints once more.
const (
	mainContainer = "main"

	workflowLabel = "workflows.argoproj.io/workflow"
	nodeKey       = "workflows.argoproj.io/node-id"
)

// Log opens what a task of a run wrote. Its EOF says that there is no more now; with follow it waits for more, as long
// as the container runs. Reading where there is no pod is an fs.ErrNotExist.
func (p *Plane) Log(ctx context.Context, run *v1alpha1.WorkflowRun, task string, follow bool) (io.ReadCloser, error) {
	where := run.Status.RunReference
	if where == nil {
		return nil, fmt.Errorf("run %s/%s has no workflow: %w", run.Namespace, run.Name, fs.ErrNotExist)
	}
	workflow, err := p.workflow(ctx, where.Namespace, where.Name)
	if missing, ok := errors.AsType[*runstatus.NotFoundError](err); ok {
		return nil, fmt.Errorf("%w: its log is gone with it: %w", missing, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	for _, node := range runstatus.Pods(workflow.Status.Nodes) {
		if runstatus.TaskName(&node) == task {
			return &podLog{
				ctx:       ctx,
				plane:     p,
				namespace: where.Namespace,
				workflow:  where.Name,
				node:      node.ID,
				task:      task,
				follow:    follow,
			}, nil
		}
	}
	return nil, fmt.Errorf("workflow %s/%s has no task %q any more", where.Namespace, where.Name, task)
}

// podLog reads the log of one pod, in whole lines and without those of Argo's own program: of the init container that
// runs code of strangers, if there is one, and then of main, without what it prints once more. The connection may break
// while the container runs, and the API server may end it before the last lines are there. So the log is read once more
// after the container has ended, behind what has been read already.
type podLog struct {
	ctx                             context.Context
	plane                           *Plane
	namespace, workflow, node, task string
	follow                          bool

	container string        // whose log is read; empty before the pod is found
	built     bool          // the log of the container before main has been read
	body      io.ReadCloser // nil: to be opened
	lines     *bufio.Reader // of body
	line      string        // the unread rest of a line, or of a piece of a long one
	read      int64         // bytes of the container's lines before
	whole     bool          // the container had ended before body was opened
	done      bool

	goesOn bool // the line that was read last has no end yet: it is longer than lines keeps
	out    bool // that line is left out
}

// Read implements io.Reader.
func (l *podLog) Read(into []byte) (int, error) {
	for l.line == "" {
		if l.done {
			return 0, io.EOF
		}
		if l.body == nil {
			if err := l.open(); err != nil {
				return 0, err
			}
		}
		piece, err := l.lines.ReadSlice('\n')
		line, goesOn := string(piece), l.goesOn
		l.goesOn = errors.Is(err, bufio.ErrBufferFull)
		if err == nil || l.goesOn {
			l.read += int64(len(line))
		} else if err := l.ended(err); err != nil {
			return 0, err
		}
		if !goesOn {
			l.out = l.left(line)
		}
		if line != "" && !l.out {
			l.line = strings.TrimSuffix(line, "\n") + "\n"
		}
	}
	n := copy(into, l.line)
	l.line = l.line[n:]
	return n, nil
}

// ended decides what the end of a connection means: io.EOF that there is no more now, nil that the log is complete.
func (l *podLog) ended(err error) error {
	l.Close()
	l.body = nil
	switch {
	case l.ctx.Err() != nil:
		return l.ctx.Err()
	case !errors.Is(err, io.EOF) && (l.whole || !l.follow):
		return l.plane.explain(l.ctx, "log of "+l.task, err)
	case !l.whole:
		return io.EOF
	}
	if l.container != mainContainer {
		l.container, l.built, l.read, l.whole = mainContainer, true, 0, false
		return nil
	}
	l.done = true
	return nil
}

// left tells whether a line is left out.
func (l *podLog) left(line string) bool {
	return l.container == mainContainer && (executors(line) || l.built && replay.Marked(line))
}

// executors tells whether a line is of Argo's program that runs the step, as the argo command does.
func executors(line string) bool {
	return strings.HasPrefix(line, "time=") && strings.Contains(line, " argo=true")
}

// open opens the log behind what has been read. io.EOF says that there is none yet.
func (l *podLog) open() error {
	pod, err := l.pod()
	if err != nil {
		return err
	}
	if pod == nil {
		return outcome.Errorf(
			outcome.NotFound, "%s: its pod is gone, and its log with it: %w", l.task, fs.ErrNotExist,
		).WithHint("A pod goes with its workflow or by the workflow's podGC. Logs are kept where the cluster's " +
			"logging keeps them.")
	}
	is := func(c corev1.ContainerStatus) bool { return c.Name == l.container }
	statuses := pod.Status.ContainerStatuses
	if l.container == "" {
		l.container = mainContainer
		if i := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return replay.Repeated(c.Name)
		}); i >= 0 {
			l.container = pod.Spec.InitContainers[i].Name
		}
	}
	if l.container != mainContainer {
		statuses = pod.Status.InitContainerStatuses
	}
	i := slices.IndexFunc(statuses, is)
	if i < 0 || statuses[i].State.Running == nil && statuses[i].State.Terminated == nil {
		return io.EOF
	}
	l.whole = statuses[i].State.Terminated != nil
	request := l.plane.client.Get().AbsPath("/api/v1/namespaces/"+url.PathEscape(l.namespace)+"/pods/"+
		url.PathEscape(pod.Name)+"/log").
		Param("container", l.container)
	if l.follow && !l.whole {
		request.Param("follow", "true")
	}
	body, err := request.Stream(l.ctx)
	if apierrors.IsNotFound(err) && l.container != mainContainer && l.whole {
		// A node keeps ended containers only so long; main has printed the log once more.
		l.container, l.read = mainContainer, 0
		return l.open()
	}
	if err != nil {
		return l.plane.explain(l.ctx, "log of pod "+l.namespace+"/"+pod.Name, err)
	}
	l.body, l.lines = body, bufio.NewReaderSize(body, quote.LineLimit)
	if _, err := io.CopyN(io.Discard, l.lines, l.read); err != nil && !errors.Is(err, io.EOF) {
		return l.plane.explain(l.ctx, "log of pod "+l.namespace+"/"+pod.Name, err)
	}
	return nil
}

// pod finds the task's pod; its name has changed between versions of Argo, its marks have not.
func (l *podLog) pod() (*corev1.Pod, error) {
	var list corev1.PodList
	path := "/api/v1/namespaces/" + url.PathEscape(l.namespace) + "/pods"
	err := l.plane.get(l.ctx, "pods in namespace "+l.namespace, path, url.Values{
		"labelSelector": {workflowLabel + "=" + l.workflow},
	}, &list)
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Annotations[nodeKey] == l.node {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// Close implements io.Closer.
func (l *podLog) Close() error {
	if l.body == nil {
		return nil
	}
	return l.body.Close()
}
