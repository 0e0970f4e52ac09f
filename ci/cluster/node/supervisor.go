package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Process is one of the node's, outside of containers.
type Process struct {
	Name  string
	Args  []string                        // the program first
	Env   []string                        // besides this process's
	Ready func(ctx context.Context) error // nil when it serves; nil: as soon as it has started
	Limit time.Duration                   // for getting ready; 0: two minutes
}

// A Supervisor runs processes. Methods may be called at once, each for a process of its own.
type Supervisor struct {
	State State
	Say   func(format string, args ...any) // hears of processes that end by themselves

	mu        sync.Mutex
	processes map[string]*running
}

type running struct {
	Process
	mu    sync.Mutex // held while it is started or stopped
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
	told  *atomic.Bool  // that it should end
}

// Start starts a process and waits until it is ready.
func (s *Supervisor) Start(ctx context.Context, p Process) error {
	r := &running{Process: p}
	s.mu.Lock()
	if s.processes == nil {
		s.processes = map[string]*running{}
	}
	s.processes[p.Name] = r
	s.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.start(ctx, r)
}

func (s *Supervisor) start(ctx context.Context, r *running) error {
	if r.alive() {
		return nil
	}
	log, err := os.OpenFile(s.State.Log(r.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), r.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	ended := make(chan struct{})
	told := new(atomic.Bool)
	r.cmd, r.ended, r.told = cmd, ended, told
	go func() {
		err := cmd.Wait()
		close(ended)
		if !told.Load() {
			s.Say("%s ended by itself (%v); see %s", r.Name, err, s.State.Log(r.Name))
		}
	}()
	if r.Ready == nil {
		return nil
	}
	limit := r.Limit
	if limit == 0 {
		limit = 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		if last = r.Ready(ctx); last == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf(
				"%s ended instead of getting ready; %s says:\n%s", r.Name, s.State.Log(r.Name),
				tail(s.State.Log(r.Name), 15),
			)
		case <-ctx.Done():
			return fmt.Errorf(
				"%s is not ready in %s: %w; %s says:\n%s", r.Name, limit, last, s.State.Log(r.Name),
				tail(s.State.Log(r.Name), 15),
			)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (r *running) alive() bool {
	if r.cmd == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}

// stop asks the process to end and kills it when it does not within ten seconds.
func (r *running) stop() error {
	if !r.alive() {
		return nil
	}
	r.told.Store(true)
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		<-r.ended
	}
	return nil
}

// A Status tells of a process.
type Status struct {
	Name string `json:"name"`
	PID  int    `json:"pid,omitempty"` // in the namespaces; 0: it does not run
	Log  string `json:"log"`
}

// Serve lets other processes start and stop the node's, on a Unix socket in the state's folder:
// GET /processes, and POST /processes/<name>/start, stop or restart, which answer when it is done.
func (s *Supervisor) Serve() error {
	listener, err := net.Listen("unix", s.State.Path("control.sock"))
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /processes", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(s.status())
	})
	mux.HandleFunc("POST /processes/{name}/{action}", func(w http.ResponseWriter, r *http.Request) {
		if err := s.act(r.Context(), r.PathValue("name"), r.PathValue("action")); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	go http.Serve(listener, mux)
	return nil
}

func (s *Supervisor) status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Status
	for _, name := range slices.Sorted(maps.Keys(s.processes)) {
		r := s.processes[name]
		status := Status{Name: name, Log: s.State.Log(name)}
		if r.mu.TryLock() {
			if r.alive() {
				status.PID = r.cmd.Process.Pid
			}
			r.mu.Unlock()
		}
		all = append(all, status)
	}
	return all
}

func (s *Supervisor) act(ctx context.Context, name, action string) error {
	s.mu.Lock()
	r := s.processes[name]
	names := slices.Sorted(maps.Keys(s.processes))
	s.mu.Unlock()
	if r == nil {
		return fmt.Errorf("there is no process %s; there is %s", name, strings.Join(names, ", "))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch action {
	case "start":
		return s.start(ctx, r)
	case "stop":
		return r.stop()
	case "restart":
		if err := r.stop(); err != nil {
			return err
		}
		return s.start(ctx, r)
	}
	return fmt.Errorf("a process can be told start, stop and restart, not %s", action)
}

// client talks to the supervisor of a running cluster, from inside the namespaces and from outside.
func (s State) client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.Path("control.sock"))
		}},
	}
}

// Processes tells of the node's processes.
func (s State) Processes(ctx context.Context) ([]Status, error) {
	var all []Status
	body, err := s.call(ctx, http.MethodGet, "/processes")
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal(body, &all)
}

// Act starts, stops or restarts one of the node's processes and returns when it has ended or is ready.
func (s State) Act(ctx context.Context, process, action string) error {
	_, err := s.call(ctx, http.MethodPost, "/processes/"+process+"/"+action)
	return err
}

func (s State) call(ctx context.Context, method, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := s.client().Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask the cluster in %s (is it up?): %w", s.Dir, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(strings.TrimSpace(string(body)))
	}
	return body, nil
}

// tail returns the last lines of a file.
func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(content), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
