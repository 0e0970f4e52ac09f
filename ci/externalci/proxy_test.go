package externalci_test

import (
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// proxy stands before an API and its token endpoint, and keeps what was asked.
type proxy struct {
	*httptest.Server
	api, token http.Handler

	mu       sync.Mutex
	requests []string // METHOD path
}

// before starts a proxy. What meddle answers, by returning true, does not reach the API.
func before(t *testing.T, p *platform, meddle func(x *proxy, w http.ResponseWriter, r *http.Request) bool) *proxy {
	t.Helper()
	to := func(raw string) http.Handler {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = ""
		return &httputil.ReverseProxy{
			Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(u) },
			ErrorLog: log.New(io.Discard, "", 0),
		}
	}
	x := &proxy{api: to(p.url), token: to(p.tokenURL)}
	x.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x.mu.Lock()
		x.requests = append(x.requests, r.Method+" "+r.URL.Path)
		x.mu.Unlock()
		if meddle == nil || !meddle(x, w, r) {
			x.pass(w, r)
		}
	}))
	t.Cleanup(x.Close)
	return x
}

func (x *proxy) pass(w http.ResponseWriter, r *http.Request) {
	if isAPI(r) {
		x.api.ServeHTTP(w, r)
	} else {
		x.token.ServeHTTP(w, r)
	}
}

// cut passes a request on to the API, and breaks the connection instead of answering.
func (x *proxy) cut(r *http.Request) {
	x.pass(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// lead returns parameters whose URLs lead through the proxy.
func (x *proxy) lead(p *platform, parameters map[string]string) map[string]string {
	parameters = maps.Clone(parameters)
	token, _ := url.Parse(p.tokenURL)
	parameters["API_SERVER_URL"], parameters["OAUTH_TOKEN_URL"] = x.URL, x.URL+token.Path
	return parameters
}

// count is how many requests of a method went to paths that contain a text.
func (x *proxy) count(method, part string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := 0
	for _, r := range x.requests {
		if strings.HasPrefix(r, method+" ") && strings.Contains(r, part) {
			n++
		}
	}
	return n
}

func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }
