package registry_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/registry"
)

// An answer of which nothing more comes ends, as one that broke off. One that comes slowly does not.
func TestStalledAnswer(t *testing.T) {
	t.Parallel()
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range 5 {
					io.WriteString(w, "part")
					http.NewResponseController(w).Flush()
					if r.URL.Path == "/v2/a/blobs/slow" {
						select {
						case <-time.After(20 * time.Millisecond):
						case <-r.Context().Done():
						}
					}
				}
				if r.URL.Path == "/v2/a/blobs/stalled" {
					<-r.Context().Done()
				}
			}))
			server.EnableHTTP2 = http2
			server.StartTLS()
			t.Cleanup(server.Close)
			host := strings.TrimPrefix(server.URL, "https://")
			gate := &registry.Gate{Host: host, Next: server.Client().Transport, Patience: 2 * time.Second}
			get := func(path string) ([]byte, error) {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, http.NoBody)
				if err != nil {
					t.Fatal(err)
				}
				response, err := gate.RoundTrip(request)
				if err != nil {
					t.Fatal(err)
				}
				defer response.Body.Close()
				return io.ReadAll(response.Body)
			}
			if read, err := get("/v2/a/blobs/slow"); err != nil || len(read) != 20 {
				t.Errorf("%q, %v", read, err)
			}
			gate.Patience = 50 * time.Millisecond
			_, err := get("/v2/a/blobs/stalled")
			fault := registry.FaultOf(host, err)
			if !errors.Is(err, io.ErrUnexpectedEOF) || fault.Kind != registry.Unavailable ||
				!strings.Contains(fault.Error(), "nothing more of its answer came for 50ms") {
				t.Errorf("%v: %v", err, fault)
			}
		})
	}
}
