package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/trace"
	"github.com/stepwright/stepwright/steps/internal/userns"
)

// childName is the name by which the executable runs as the builder.
const childName = "stepwright-buildkit"

// The child's files besides the standard ones. On standard input it gets its Config as JSON.
const (
	connectionFD = 3 // its end of the socket pair
	readyFD      = 4 // where it says how starting went: nothing, or a failure as JSON
	spansFD      = 5 // where it writes its spans, if there is to be a trace
)

// order is what the child is to be.
type order struct {
	Config    Config
	Isolation Isolation
	Traced    bool // whether it writes spans
}

// failure is an outcome.Error on its way from the child.
type failure struct {
	Reason        outcome.Reason
	Message, Hint string
	Masked        bool // it was errMasked
}

// RunIfChild makes this process the builder, or a program that it runs, and does not return, if Start or the builder
// started it to be one. Every program that calls Start calls it before anything else.
func RunIfChild() {
	logrus.SetLevel(logrus.ErrorLevel) // BuildKit and containerd tell of much that is of no use to a step
	switch filepath.Base(os.Args[0]) {
	case childName:
	case probeName:
		os.Exit(0)
	case unxzName:
		if err := unxz(os.Stdout, os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case runtimeName:
		fmt.Fprintln(os.Stderr, execRunc(os.Args[1:]))
		os.Exit(1)
	default:
		return
	}
	ready := os.NewFile(readyFD, "ready")
	if err := runChild(ready); err != nil {
		f := outcome.Of(err)
		if json.NewEncoder(ready).Encode(failure{f.Reason, f.Message, f.Hint, errors.Is(err, errMasked)}) != nil {
			fmt.Fprintln(os.Stderr, "builder:", err) // it had started: nobody reads there any more
		}
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild(ready *os.File) error {
	if err := userns.Await(); err != nil {
		return outcome.Errorf(outcome.BuilderUnavailable, "mount namespace: %w", err)
	}
	var order order
	if err := json.NewDecoder(os.Stdin).Decode(&order); err != nil {
		return err
	}
	config, isolation := order.Config, order.Isolation
	if err := isolation.enter(); err != nil {
		return err
	}
	state := config.Root
	// Of a step that was killed, the builder may be at its end still.
	unlock, err := filelock.Exclusive(context.Background(), filepath.Join(state, workFile))
	if err != nil {
		return err
	}
	defer unlock()
	unsynced, err := adopt(state, config)
	if err != nil {
		return err
	}
	place, leave, err := isolation.place(state)
	if err != nil {
		return err
	}
	config.Root = place
	if err := runcState(filepath.Join(config.Root, "runc")); err != nil {
		return err
	}
	if err := provide(filepath.Join(config.Root, "programs")); err != nil {
		return err
	}
	// What runs in the build must not get hold of them.
	unix.CloseOnExec(connectionFD)
	unix.CloseOnExec(readyFD)
	var options []grpc.ServerOption
	if order.Traced {
		unix.CloseOnExec(spansFD)
		options = append(options, spansFrom(os.NewFile(spansFD, "spans")))
	}
	end := os.NewFile(connectionFD, "connection")
	conn, err := net.FileConn(end)
	if err != nil {
		return err
	}
	end.Close()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	swept := make(chan struct{})
	go func() {
		defer close(swept)
		if config.Temporary {
			sweep(state)
		}
	}()
	d, err := newDaemon(ctx, config, isolation, unsynced)
	if err == nil {
		listener := newSingle(conn)
		stopListening := context.AfterFunc(ctx, func() { listener.Close() })
		defer stopListening()
		ready.Close()
		err = d.work(listener, options...)
	}
	if config.Temporary {
		// Files of the namespace's other users can be removed only here.
		err = errors.Join(err, leave(), removeAll(state))
	}
	<-swept
	return err
}

// runcState has runc keep its state in dir, without what a builder that was killed left there. It does so only in a
// user namespace, and unless it takes itself for root there.
func runcState(dir string) error {
	return errors.Join(
		os.RemoveAll(dir), os.MkdirAll(dir, 0o700), os.Setenv("XDG_RUNTIME_DIR", dir), os.Unsetenv("USER"),
	)
}

// patience is how long the child may take to end a build that was cancelled.
const patience = 8 * time.Second

// tidying is how long it may take then to remove what it has, or what of it is too much. A step that is told to stop
// waits less long: the child goes on by itself, as long as its container does, and the next build removes the rest.
const tidying = 10 * time.Minute

// Start starts a builder of the process's own. Raw output of it goes to stderr. While another has the state it waits,
// and calls waiting before with who that is, such as "process 4711 on build-7".
func Start(ctx context.Context, config Config, stderr io.Writer, waiting func(holder string)) (*BuildKit, error) {
	if _, err := exec.LookPath("runc"); err != nil {
		return nil, outcome.Errorf(
			outcome.BuilderUnavailable, "runc, which runs the instructions of a Dockerfile, is not installed: %w",
			err,
		).
			WithHint("Install runc (Debian: apt-get install runc), or let a daemon build: buildkit-address.")
	}
	root, err := filepath.Abs(config.Root)
	if err != nil {
		return nil, err
	}
	config.Root = root
	release, err := prepare(ctx, config.Root, waiting)
	if err != nil {
		return nil, err
	}
	isolation := OwnProc
	c, err := start(ctx, order{Config: config, Isolation: isolation}, stderr)
	if errors.Is(err, errMasked) {
		isolation = SharedProc
		c, err = start(ctx, order{Config: config, Isolation: isolation}, stderr)
	}
	if err != nil {
		release()
		return nil, err
	}
	conn, err := client.New(ctx, "", client.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		if conn := c.take(); conn != nil {
			return conn, nil
		}
		return nil, errors.New("the builder has ended")
	}))
	if err != nil {
		c.conn.Close()
		err = errors.Join(err, c.wait())
		release()
		return nil, err
	}
	return &BuildKit{Client: conn, Isolation: isolation, close: sync.OnceValue(func() error {
		conn.Close()
		defer release()
		return c.wait()
	})}, nil
}

// lockFile is what the step locks in the directory of a builder's state, and workFile what the builder itself does. The
// builder may outlive a step that is killed.
const lockFile, workFile = "lock", "builder.lock"

// prepare makes the directory for a builder's state and locks it until release.
func prepare(ctx context.Context, root string, waiting func(holder string)) (release func(), err error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "buildkit-root: %w", err)
	}
	// A volume with fsGroup hands its group down, which the namespace need not have.
	if err := errors.Join(os.Chown(root, -1, os.Getgid()), os.Chmod(root, 0o700)); err != nil {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "buildkit-root: %w", err)
	}
	unlock, err := filelock.Claim(ctx, filepath.Join(root, lockFile), waiting)
	if ctx.Err() != nil && err != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "buildkit-root: %w", err)
	}
	return unlock, nil
}

// child is the builder's process.
type child struct {
	cmd   *exec.Cmd
	conn  net.Conn
	ended chan error
	spans chan struct{} // closed when there are no more spans of it

	mu    sync.Mutex
	taken bool
}

// take returns the connection to the child, once.
func (c *child) take() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken {
		return nil
	}
	c.taken = true
	return c.conn
}

// wait waits for the end of the child after its connection was closed.
func (c *child) wait() error {
	c.conn.Close()
	select {
	case err := <-c.ended:
		select {
		case <-c.spans:
		case <-time.After(time.Second): // a program that it has left may hold their pipe
		}
		return err
	case <-time.After(patience + tidying):
		c.cmd.Process.Kill()
		return errors.Join(errors.New("the builder had to be killed"), <-c.ended)
	}
}

func start(ctx context.Context, order order, stderr io.Writer) (*child, error) {
	order.Traced = trace.FromContext(ctx) != nil
	settings, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "builder"), os.NewFile(uintptr(pair[1]), "step")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	ready, said, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer ready.Close()
	defer said.Close()

	spans := make(chan struct{})
	files := []*os.File{theirs, said}
	if recorder := trace.FromContext(ctx); recorder != nil {
		from, to, err := os.Pipe()
		if err != nil {
			conn.Close()
			return nil, err
		}
		defer to.Close()
		files = append(files, to)
		go func() {
			defer close(spans)
			defer from.Close()
			spansTo(recorder, from)
		}()
	} else {
		close(spans)
	}

	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{childName},
		Env:        append(slices.DeleteFunc(os.Environ(), ofTheTrace), wholeLog...),
		Stdin:      bytes.NewReader(settings),
		Stdout:     stderr,
		Stderr:     stderr,
		ExtraFiles: files,
		// Ctrl-C on a terminal is for the step, which then ends the builder in good order.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if order.Isolation == OwnProc {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	if err := launch(cmd); err != nil {
		conn.Close()
		return nil, err
	}
	c := &child{cmd: cmd, conn: conn, ended: make(chan error, 1), spans: spans}
	go func() { c.ended <- cmd.Wait() }()
	for _, file := range files {
		file.Close() // the child's copies are what counts
	}
	stopReading := context.AfterFunc(ctx, func() { ready.SetReadDeadline(time.Now()) })
	defer stopReading()
	answer, err := io.ReadAll(ready)
	if err == nil && len(answer) == 0 {
		select {
		case err := <-c.ended: // killed before it could say anything
			c.ended <- err
			conn.Close()
			return nil, outcome.Errorf(outcome.BuilderUnavailable, "the builder ended at once: %v", err)
		default:
			return c, nil
		}
	}
	ended := c.wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var f failure
	if err := json.Unmarshal(answer, &f); err != nil || f.Reason == outcome.Succeeded {
		return nil, outcome.Errorf(outcome.BuilderUnavailable, "the builder did not start: %v", ended)
	}
	if f.Masked {
		return nil, errMasked
	}
	if f.Reason == outcome.Failed {
		f.Reason = outcome.BuilderUnavailable
	}
	return nil, outcome.Errorf(f.Reason, "the builder did not start: %s", f.Message).WithHint(f.Hint)
}

// ofTheTrace tells whether a variable says where spans go, with which credentials. The step sends them.
func ofTheTrace(variable string) bool { return strings.HasPrefix(variable, "OTEL_") }

// launch starts the child as root where this process may mount file systems, and otherwise as the root of a user
// namespace.
func launch(cmd *exec.Cmd) error {
	if userns.HasCapabilities(unix.CAP_SYS_ADMIN, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN) &&
		os.Geteuid() == 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNS // its mounts end with it, however it ends
		if err := cmd.Start(); err != nil {
			return outcome.Errorf(outcome.BuilderUnavailable, "start the builder: %w", err)
		}
		return nil
	}
	mapping, err := userns.Find()
	if err != nil {
		return err
	}
	return mapping.Start(cmd)
}

// single is a listener with one connection. It ends with it: Accept returns net.ErrClosed once the other side has hung
// up.
type single struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newSingle(conn net.Conn) *single {
	s := &single{conns: make(chan net.Conn, 1), done: make(chan struct{}), addr: conn.LocalAddr()}
	s.conns <- &hangup{Conn: conn, tell: s.Close}
	return s
}

func (s *single) Accept() (net.Conn, error) {
	select {
	case conn := <-s.conns:
		return conn, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *single) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *single) Addr() net.Addr { return s.addr }

// hangup is a connection that tells when it ends.
type hangup struct {
	net.Conn
	tell func() error
}

func (h *hangup) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if err != nil {
		h.tell()
	}
	return n, err
}
