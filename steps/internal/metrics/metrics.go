// Package metrics passes on the metrics of a BuildKit daemon.
//
// BuildKit has them on its debug address only, beside profiles and dumps, and asks nobody there who they are. The RUNs
// of a daemon share the network of its pod. So the debug address is a socket in a folder that only this program shares
// with the daemon, and this program asks there for the metrics and nothing else.
package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Command is the argument that makes a step's program this one.
const Command = "metrics"

// path is where the metrics are, at both ends.
const path = "/metrics"

// Bounds of what a client can have this program and the daemon do.
const (
	most        = 8 << 20          // bytes of metrics
	fresh       = time.Second      // for which an answer is given again
	patience    = 5 * time.Second  // with the daemon, and with a client's request
	slowest     = 20 * time.Second // with a client that reads
	idle        = time.Minute      // with a connection between two requests
	connections = 64
)

// RunIfCommand makes this process serve metrics until it is told to end, and does not return, if its first argument is
// Command.
func RunIfCommand() {
	if len(os.Args) < 2 || os.Args[1] != Command {
		return
	}
	flags := flag.NewFlagSet(Command, flag.ExitOnError)
	address := flags.String("listen", ":9090", "address to serve at")
	socket := flags.String("socket", "", "socket that is the daemon's debug address")
	flags.Parse(os.Args[2:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *address)
	if err == nil {
		err = Serve(ctx, listener, *socket)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "metrics:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Serve answers GET /metrics with the metrics of the daemon whose debug address is a socket, and all else with 404,
// until the context ends. It closes the listener.
func Serve(ctx context.Context, listener net.Listener, socket string) error {
	server := &http.Server{
		Handler:           newHandler(socket),
		ReadHeaderTimeout: patience,
		ReadTimeout:       patience,
		WriteTimeout:      slowest,
		IdleTimeout:       idle,
		MaxHeaderBytes:    16 << 10,
	}
	end := context.AfterFunc(ctx, func() { server.Close() })
	defer end()
	err := server.Serve(&bounded{Listener: listener, places: make(chan struct{}, connections)})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// handler has the last answer of the daemon.
type handler struct {
	daemon http.Client

	mu   sync.Mutex
	at   time.Time // when the answer came
	body []byte
	kind string // its Content-Type
	err  error  // why there is none
}

func newHandler(socket string) *handler {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &handler{daemon: http.Client{
		Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, ResponseHeaderTimeout: patience},
		Timeout:   patience,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}
}

// ServeHTTP implements http.Handler. Nothing of a request reaches the daemon.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet || r.URL.Path != path {
		http.Error(w, "there is GET "+path+" only", http.StatusNotFound)
		return
	}
	body, kind, err := h.metrics()
	if err != nil {
		http.Error(w, "the daemon does not tell its metrics", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Write(body)
}

// metrics asks the daemon, unless it has just answered.
func (h *handler) metrics() (body []byte, kind string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > fresh {
		h.body, h.kind, h.err = h.ask()
		h.at = time.Now()
	}
	return h.body, h.kind, h.err
}

func (h *handler) ask() (body []byte, kind string, err error) {
	response, err := h.daemon.Get("http://buildkitd" + path)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	kind = response.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(kind); err != nil || media != "text/plain" ||
		response.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("%s, %q", response.Status, kind)
	}
	body, err = io.ReadAll(io.LimitReader(response.Body, most+1))
	if err == nil && len(body) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	return body, kind, err
}

// bounded has no more connections than there are places. The others wait.
type bounded struct {
	net.Listener
	places chan struct{}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	b.places <- struct{}{}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &placed{Conn: conn, leave: sync.OnceFunc(func() { <-b.places })}, nil
}

type placed struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
