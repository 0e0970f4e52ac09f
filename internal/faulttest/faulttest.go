// Package faulttest puts faults between a step and a real server: answers that are late, wrong, or cut off.
package faulttest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// Fault is what goes wrong with one request. The zero value is a connection that breaks before the answer.
type Fault struct {
	Status     int           // answer with this status instead of passing the request on
	RetryAfter string        // with this Retry-After header
	Body       string        // and this body
	Delay      time.Duration // wait before anything else
	ReadBody   int64         // break the connection after reading that many bytes of the request's body
	CutBody    int64         // pass the request on, and break the connection after that many bytes of the answer's body
	Length     int64         // pass the request on, and announce this Content-Length instead of the true one
	Pass       bool          // pass the request on unharmed, after the delay
}

// Rule decides on each request; nil passes it on.
type Rule func(*http.Request) *Fault

// First applies a fault to the first n requests that match, and passes on all others.
func First(n int, match func(*http.Request) bool, fault Fault) Rule {
	var seen atomic.Int64
	return func(r *http.Request) *Fault {
		if match(r) && seen.Add(1) <= int64(n) {
			return &fault
		}
		return nil
	}
}

// Server stands in front of a server until the test ends.
type Server struct {
	*httptest.Server
	Faults atomic.Int64 // how many requests a fault was applied to
}

// Before starts a Server in front of the server at target, a URL without a path.
func Before(t testing.TB, target string, rule Rule) *Server {
	t.Helper()
	to, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy := &httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(to)
				// absolute URLs in answers, such as upload locations, lead back through the proxy
				p.Out.Host = p.In.Host
			},
			ErrorLog: log.New(io.Discard, "", 0), // connections end early here on purpose
		}
		fault := rule(r)
		if fault == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		s.Faults.Add(1)
		select {
		case <-time.After(fault.Delay):
		case <-r.Context().Done():
			return
		}
		switch {
		case fault.Pass:
			proxy.ServeHTTP(w, r)
		case fault.Status != 0:
			if fault.RetryAfter != "" {
				w.Header().Set("Retry-After", fault.RetryAfter)
			}
			w.WriteHeader(fault.Status)
			io.WriteString(w, fault.Body)
		case fault.Length != 0 || fault.CutBody != 0:
			proxy.ModifyResponse = func(resp *http.Response) error {
				if fault.Length != 0 {
					resp.ContentLength = fault.Length
					resp.Header.Set("Content-Length", strconv.FormatInt(fault.Length, 10))
				}
				if fault.CutBody != 0 {
					resp.Body = struct {
						io.Reader
						io.Closer
					}{io.LimitReader(resp.Body, fault.CutBody), resp.Body}
				}
				return nil
			}
			proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
			proxy.ServeHTTP(w, r)
			panic(http.ErrAbortHandler)
		default:
			io.CopyN(io.Discard, r.Body, fault.ReadBody)
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	return s
}
