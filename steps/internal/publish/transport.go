package publish

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is how many bytes of a blob are read, hashed and sent at once. Go's own transport reads 32 KiB, and sends each
// record of TLS, of 16 KiB, by a system call of its own.
const chunk = 128 << 10

// handshake is how long a server may take for TLS.
const handshake = 10 * time.Second

// uploads is a transport like t for blobs. It waits for an answer as long as the request's context: a registry may take
// long to store a blob. It speaks HTTP/1.1, so that each upload has a connection of its own: those that share one by
// HTTP/2 share its window, too.
func uploads(t *http.Transport) *http.Transport {
	t = t.Clone()
	t.ResponseHeaderTimeout = 0
	t.ForceAttemptHTTP2 = false
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.TLSNextProto = nil
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{}
	}
	t.TLSClientConfig.NextProtos = []string{"http/1.1"}
	dial := t.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &connection{conn}, nil
	}
	t.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, handshake)
		defer cancel()
		config := t.TLSClientConfig.Clone()
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(address)
		}
		records := &records{Conn: conn}
		secured := tls.Client(records, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err // as it is: net/http tells by its type that the server speaks plain HTTP
		}
		return &connection{&tlsConnection{secured, records}}, nil
	}
	return t
}

// connection reads what it sends in chunks.
type connection struct{ net.Conn }

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// ReadFrom implements io.ReaderFrom, which the HTTP transport uses for a request's body.
func (c *connection) ReadFrom(r io.Reader) (sent int64, err error) {
	buffer := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buffer)
	for err == nil {
		n := 0
		for n < len(buffer) && err == nil {
			var more int
			more, err = r.Read(buffer[n:])
			n += more
		}
		if n == 0 {
			break
		}
		written, failed := c.Write(buffer[:n])
		sent += int64(written)
		if failed != nil {
			return sent, failed
		}
	}
	if err == io.EOF {
		err = nil
	}
	return sent, err
}

// tlsConnection sends the records of one Write together.
type tlsConnection struct {
	*tls.Conn
	records *records
}

func (c *tlsConnection) Write(p []byte) (int, error) {
	c.records.hold()
	n, err := c.Conn.Write(p)
	if failed := c.records.release(); err == nil && failed != nil {
		return 0, failed
	}
	return n, err
}

// Close breaks off a Write, as the one of tls.Conn does. That one would first wait to say goodbye.
func (c *tlsConnection) Close() error {
	if c.records.sending.Load() {
		return c.records.Conn.Close()
	}
	return c.Conn.Close()
}

// records is the connection under TLS, which may hold back what TLS writes.
type records struct {
	net.Conn
	sending atomic.Bool // from hold to the end of release
	mu      sync.Mutex
	holding bool
	held    []byte
}

func (r *records) hold() {
	r.sending.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = true
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.holding {
		return r.Conn.Write(p)
	}
	r.held = append(r.held, p...)
	return len(p), nil
}

// release sends what was held back.
func (r *records) release() error {
	defer r.sending.Store(false)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.holding = false
	_, err := r.Conn.Write(r.held)
	r.held = r.held[:0]
	return err
}
