package dockerfile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// watch shows the progress of a build and remembers what a failure's message needs.
type watch struct {
	statuses chan *client.SolveStatus // the builder sends them here, and closes it
	shown    chan struct{}

	names  map[string]string           // of vertices, by digest
	tails  map[string]*transcript.Tail // their last output, by digest
	begins map[stream]*client.VertexLog
	src    *source

	failed bool     // whether any vertex has
	checks []string // what the frontend's checks have found, with lines
}

// stream is an output of a vertex.
type stream struct {
	vertex digest.Digest
	number int
}

// newWatch shows what the builder tells, and has hear hear of it.
func newWatch(w io.Writer, src *source, hear func(*client.SolveStatus)) (*watch, error) {
	display, err := progressui.NewDisplay(w, progressui.PlainMode)
	if err != nil {
		return nil, err
	}
	s := &watch{
		statuses: make(chan *client.SolveStatus),
		shown:    make(chan struct{}),
		names:    map[string]string{},
		tails:    map[string]*transcript.Tail{},
		begins:   map[stream]*client.VertexLog{},
		src:      src,
	}
	show := make(chan *client.SolveStatus)
	go func() {
		defer close(s.shown)
		// Not the build's context: what a build that was cancelled did last is shown, too.
		display.UpdateFrom(context.Background(), show)
	}()
	go func() {
		defer close(show)
		for status := range s.statuses {
			s.note(status)
			hear(status)
			status.Logs = s.whole(status.Logs)
			show <- status
		}
		last := &client.SolveStatus{}
		for _, begin := range s.begins {
			last.Logs = append(last.Logs, begin)
		}
		show <- last
	}()
	return s, nil
}

// wait waits until everything is shown. Then the rest may be read.
func (s *watch) wait() { <-s.shown }

func (s *watch) note(status *client.SolveStatus) {
	for _, v := range status.Vertexes {
		s.names[v.Digest.String()] = v.Name
		s.failed = s.failed || v.Error != ""
	}
	for _, l := range status.Logs {
		t := s.tails[l.Vertex.String()]
		if t == nil {
			t = &transcript.Tail{Limit: 2 * outputBytes} // long lines are cut
			s.tails[l.Vertex.String()] = t
		}
		t.Write(l.Data)
	}
	for _, w := range status.Warnings {
		s.relocate(w)
		if found := string(w.Short); !slices.Contains(s.checks, found) {
			s.checks = append(s.checks, found)
		}
	}
}

// mostOfLine is how much of a line is kept back at most, in bytes.
const mostOfLine = 64 << 10

// whole keeps the beginning of a line back until its end comes. The display would end it where a vertex ends, whose
// last output can come after that.
func (s *watch) whole(logs []*client.VertexLog) []*client.VertexLog {
	var all []*client.VertexLog
	for _, l := range logs {
		from := stream{l.Vertex, l.Stream}
		data := l.Data
		if begin := s.begins[from]; begin != nil {
			data = append(begin.Data, data...)
			delete(s.begins, from)
		}
		end := bytes.LastIndexByte(data, '\n') + 1
		if len(data)-end > mostOfLine {
			end = len(data)
		}
		if end < len(data) {
			rest := *l
			rest.Data = bytes.Clone(data[end:])
			s.begins[from] = &rest
		}
		if end > 0 {
			shown := *l
			shown.Data = data[:end]
			all = append(all, &shown)
		}
	}
	return all
}

// relocate makes a warning speak of the Dockerfile as it is in the repository.
func (s *watch) relocate(w *client.VertexWarning) {
	if w.SourceInfo == nil || len(w.Range) == 0 || !bytes.Equal(w.SourceInfo.Data, s.src.text) {
		return
	}
	built := w.Range[0].Start.Line
	for _, r := range w.Range {
		r.Start.Line, r.End.Line = int32(
			s.src.lines.original(int(r.Start.Line)),
		), int32(s.src.lines.original(int(r.End.Line)))
	}
	w.SourceInfo.Data = s.src.original
	// The linter ends its messages with the line.
	if text, ok := bytes.CutSuffix(w.Short, fmt.Appendf(nil, "(line %d)", built)); ok {
		w.Short = fmt.Appendf(text, "(line %d)", w.Range[0].Start.Line)
	}
}

// A message must fit into a pod's termination message, 4096 bytes, with all the rest.
const (
	outputBytes = 3000
	outputLines = 20
)

// lastLines is what the vertex put out last.
func (s *watch) lastLines(vertex string) string {
	if t := s.tails[vertex]; t != nil {
		return transcript.End(transcript.LastLines(t.String(), outputLines), outputBytes)
	}
	return ""
}
