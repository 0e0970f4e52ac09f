package metrics

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// serve serves the metrics of a daemon that answers by a handler, and returns the address.
func serve(t *testing.T, daemon http.Handler) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "debug.sock")
	if daemon != nil {
		debug, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: daemon}
		go server.Serve(debug)
		t.Cleanup(func() { server.Close() })
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- Serve(ctx, listener, socket) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// exchange sends a request as it is, and returns the answer as it is.
func exchange(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(conn, request)
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// Whatever a client sends, the daemon is asked for its metrics and nothing else.
func TestRequests(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Method != http.MethodGet || r.RequestURI != "/metrics" || r.Header.Get("X-Secret") != "" ||
			r.ContentLength > 0 {
			t.Errorf("the daemon was asked %s %s %v", r.Method, r.RequestURI, r.Header)
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, "up 1")
	}))
	const end = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
	for _, test := range []struct{ name, request, status string }{
		{"metrics", "GET /metrics" + end + "X-Secret: x\r\n\r\n", "200"},
		{"by a proxy's request", "GET http://other/metrics" + end + "\r\n", "200"},
		{"with a query", "GET /metrics?name[]=x" + end + "\r\n", "200"},
		{"with a body", "GET /metrics" + end + "Content-Length: 3\r\n\r\nabc", "200"},
		{"another method", "POST /metrics" + end + "Content-Length: 0\r\n\r\n", "404"},
		{"HEAD", "HEAD /metrics" + end + "\r\n", "404"},
		{"CONNECT", "CONNECT buildkitd:80" + end + "\r\n", "404"},
		{"profiles", "GET /debug/pprof/heap" + end + "\r\n", "404"},
		{"variables", "GET /debug/vars" + end + "\r\n", "404"},
		{"the root", "GET /" + end + "\r\n", "404"},
		{"beside", "GET /metrics/../debug/pprof/" + end + "\r\n", "404"},
		{"doubled", "GET //metrics" + end + "\r\n", "404"},
		{"encoded", "GET /metrics%2f..%2fdebug/pprof/" + end + "\r\n", "404"},
		{"by a proxy's request for another path", "GET http://x/debug/pprof/" + end + "\r\n", "404"},
		{"one within another", "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n" +
			"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /debug/pprof/" + end + "\r\n", "200"},
		{"no request", "\x16\x03\x01\r\n\r\n", "400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			answer := exchange(t, address, test.request)
			status, _, _ := strings.Cut(strings.TrimPrefix(answer, "HTTP/1.1 "), " ")
			if status != test.status || strings.Contains(answer, "up 1\n") != (test.status == "200") {
				t.Errorf("%q", answer)
			}
		})
	}
	if n := asked.Load(); n == 0 || n > 20 {
		t.Errorf("the daemon was asked %d times", n)
	}
}

// Many requests are few for the daemon.
func TestManyRequests(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, "up 1")
	}))
	started := time.Now()
	for range 300 {
		response, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	if n, most := asked.Load(), int64(time.Since(started)/fresh)+1; n > most {
		t.Errorf("the daemon was asked %d times, and may be %d times", n, most)
	}
}

// More connections than there is room for keep nobody out for longer than they last.
func TestConnectionsThatSayNothing(t *testing.T) {
	t.Parallel()
	address := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintln(w, "up 1")
	}))
	for range connections + 8 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if answer := exchange(t, address, "GET /metrics HTTP/1.0\r\n\r\n"); !strings.Contains(answer, "up 1") {
		t.Errorf("%q", answer)
	}
}

// A daemon that is gone, or is no daemon, gives no metrics.
func TestDaemonsThatTellNothing(t *testing.T) {
	t.Parallel()
	for name, daemon := range map[string]http.HandlerFunc{
		"gone": nil,
		"an error": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusInternalServerError)
		},
		"a page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/debug/vars", http.StatusFound)
		},
		"without end": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			for block := make([]byte, 1<<20); ; {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		},
		"silent": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var handler http.Handler
			if daemon != nil {
				handler = daemon
			}
			answer := exchange(t, serve(t, handler), "GET /metrics HTTP/1.0\r\n\r\n")
			if !strings.HasPrefix(answer, "HTTP/1.0 502 ") || len(answer) > 500 {
				t.Errorf("%.300q", answer)
			}
		})
	}
}
