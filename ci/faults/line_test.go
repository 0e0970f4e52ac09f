package faults

import (
	"context"
	"net"
	"sync"
	"time"
)

// A line is where a server listens, and what becomes of the connections there. Its zero weather is fair.
type line struct {
	address string
	serve   func(net.Listener)

	mu       sync.Mutex
	weather  weather
	mended   chan struct{} // closed when a cut ends
	listener net.Listener
	open     map[*connection]bool
	busy     time.Time // until when the line carries what it was given already
	carried  int64     // bytes
}

// weather is what goes wrong on a line.
type weather struct {
	cut    bool          // nothing comes through, and nobody is told
	after  int64         // the same, once so many bytes have come through; 0: never
	rate   float64       // bytes a second, of all connections together; 0: as many as they can
	delay  time.Duration // of what follows a silence
	reset  int64         // a connection is reset after so many bytes in both directions; 0: never
	resets int           // how many connections are reset; negative: all
}

// newLine listens on an address.
func newLine(address string, serve func(net.Listener)) (*line, error) {
	l := &line{address: address, serve: serve, open: map[*connection]bool{}, mended: make(chan struct{})}
	return l, l.up()
}

// up has the server listen.
func (l *line) up() error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", l.address)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	go l.serve(accepting{listener, l})
	return nil
}

// down has nobody listen, and resets all connections.
func (l *line) down() {
	l.mu.Lock()
	listener := l.listener
	l.mu.Unlock()
	listener.Close()
	l.resetAll()
}

func (l *line) resetAll() {
	l.mu.Lock()
	all := make([]*connection, 0, len(l.open))
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		c.reset()
	}
}

// set changes the weather, also for connections that are open.
func (l *line) set(w weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.weather.cut && !w.cut {
		close(l.mended)
		l.mended = make(chan struct{})
	}
	l.weather, l.carried = w, 0
}

// count tells how many bytes came through since it was asked last.
func (l *line) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.carried
	l.carried = 0
	return n
}

type accepting struct {
	net.Listener
	line *line
}

func (a accepting) Accept() (net.Conn, error) {
	c, err := a.Listener.Accept()
	if err != nil {
		return nil, err
	}
	own := &connection{Conn: c, line: a.line, ended: make(chan struct{})}
	a.line.mu.Lock()
	a.line.open[own] = true
	a.line.mu.Unlock()
	return own, nil
}

// A connection is one on a line.
type connection struct {
	net.Conn
	line  *line
	once  sync.Once
	ended chan struct{}

	mu      sync.Mutex
	carried int64
	last    time.Time
}

func (c *connection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.carry(n)
	}
	return n, err
}

func (c *connection) Write(p []byte) (n int, err error) {
	for len(p) > 0 { // in small parts, as a network would
		part := p[:min(len(p), 16<<10)]
		c.carry(len(part))
		m, err := c.Conn.Write(part)
		n += m
		if err != nil {
			return n, err
		}
		p = p[len(part):]
	}
	return n, nil
}

// carry takes as long as bytes take on the line, and resets the connection where they are too many.
func (c *connection) carry(n int) {
	c.line.mu.Lock()
	if after := c.line.weather.after; after > 0 && c.line.carried+int64(n) > after {
		c.line.weather.cut = true
	}
	for c.line.weather.cut {
		mended := c.line.mended
		c.line.mu.Unlock()
		select {
		case <-mended:
		case <-c.ended:
		}
		c.line.mu.Lock()
		if c.isEnded() {
			break
		}
	}
	c.line.carried += int64(n)
	w := c.line.weather
	now := time.Now()
	wait := time.Duration(0)
	c.mu.Lock()
	before := c.carried
	c.carried += int64(n)
	if w.delay > 0 && now.Sub(c.last) > w.delay/10 {
		wait = w.delay
	}
	if w.rate > 0 {
		from := c.line.busy
		if from.Before(now) {
			from = now
		}
		c.line.busy = from.Add(time.Duration(float64(n) / w.rate * float64(time.Second)))
		wait = max(wait, c.line.busy.Sub(now))
	}
	over := w.reset > 0 && before+int64(n) > w.reset && w.resets != 0
	c.mu.Unlock()
	if over {
		c.line.weather.resets--
	}
	c.line.mu.Unlock()
	if over {
		c.reset()
		return
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-c.ended:
		}
	}
	c.mu.Lock()
	c.last = time.Now()
	c.mu.Unlock()
}

func (c *connection) isEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

// reset ends the connection as a machine does that has forgotten it.
func (c *connection) reset() {
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func (c *connection) Close() error {
	c.once.Do(func() { close(c.ended) })
	c.line.mu.Lock()
	delete(c.line.open, c)
	c.line.mu.Unlock()
	return c.Conn.Close()
}
