package publish

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

// counting counts the writes to a connection.
type counting struct {
	net.Conn
	mu     *sync.Mutex
	writes *int
}

func (c counting) Write(p []byte) (int, error) {
	c.mu.Lock()
	*c.writes++
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// Bodies of all lengths arrive as they are, with and without TLS, by few writes, and over a connection that is not
// shared by HTTP/2.
func TestUploadsSendWhole(t *testing.T) {
	for name, secured := range map[string]bool{"TLS": true, "plain HTTP": false} {
		t.Run(name, func(t *testing.T) {
			got := make(chan []byte, 1)
			protocol := make(chan string, 1)
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				content, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got <- content
				protocol <- r.Proto
			}))
			transport := &http.Transport{TLSClientConfig: &tls.Config{}, ForceAttemptHTTP2: true}
			if secured {
				server.EnableHTTP2 = true
				server.StartTLS()
				pool := x509.NewCertPool()
				pool.AddCert(server.Certificate())
				transport.TLSClientConfig.RootCAs = pool
			} else {
				server.Start()
			}
			defer server.Close()
			var mu sync.Mutex
			var writes int
			transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				return counting{conn, &mu, &writes}, err
			}
			transport = uploads(transport)
			defer transport.CloseIdleConnections()
			for _, size := range []int{1, chunk - 1, chunk, chunk + 1, 20 * chunk} {
				content := make([]byte, size)
				rand.Read(content)
				body := iotest.HalfReader(bytes.NewReader(content)) // of which a read returns less than was asked for
				request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, body)
				if err != nil {
					t.Fatal(err)
				}
				request.ContentLength = int64(size)
				writes = 0
				response, err := transport.RoundTrip(request)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				if !bytes.Equal(<-got, content) {
					t.Errorf("%d bytes arrived as others", size)
				}
				if p := <-protocol; p != "HTTP/1.1" {
					t.Errorf("by %s", p)
				}
				mu.Lock()
				if most := size/chunk + 12; writes > most { // handshake, headers, and the rest
					t.Errorf("%d bytes went by %d writes, more than %d", size, writes, most)
				}
				mu.Unlock()
			}
		})
	}
}

// A body that cannot be read to its end fails with its own error, and the server never sees it whole.
func TestUploadsTellWhatBreaks(t *testing.T) {
	whole := make(chan bool, 1)
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	}))
	defer server.Close()
	transport := uploads(server.Client().Transport.(*http.Transport))
	defer transport.CloseIdleConnections()
	damaged := errors.New("damaged")
	for _, cause := range []error{damaged, io.ErrUnexpectedEOF} {
		body := io.MultiReader(bytes.NewReader(make([]byte, 3*chunk)), iotest.ErrReader(cause))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL, body)
		if err != nil {
			t.Fatal(err)
		}
		request.ContentLength = 4 * chunk
		response, err := transport.RoundTrip(request)
		if err == nil {
			response.Body.Close()
		}
		if !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
		if <-whole {
			t.Error("the server has the whole")
		}
	}
}

// Certificates are checked as ever, and a server that takes nothing lets a cancelled upload end at once.
func TestUploadsTrustAndEnd(t *testing.T) {
	reached, release := make(chan struct{}), make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(reached)
		<-release
	}))
	defer server.Close()
	defer close(release)
	strangers := uploads(&http.Transport{TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := strangers.RoundTrip(request)
	if err == nil {
		response.Body.Close()
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		t.Errorf("got %v", err)
	}

	transport := uploads(server.Client().Transport.(*http.Transport))
	ctx, cancel := context.WithCancel(t.Context())
	request, err = http.NewRequestWithContext(ctx, http.MethodPut, server.URL, endless{})
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = 1 << 40
	go func() { <-reached; cancel() }()
	started := time.Now()
	response, err = transport.RoundTrip(request)
	if err == nil {
		response.Body.Close()
		t.Error("it went")
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("it took %s to end", took)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
