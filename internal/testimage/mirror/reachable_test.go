package mirror

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		want   bool
	}{{http.StatusOK, true}, {http.StatusUnauthorized, true}, {http.StatusForbidden, false},
		{http.StatusBadGateway, false}} {
		t.Run(http.StatusText(test.status), func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
			}))
			defer server.Close()
			if err := answers(t.Context(), server.URL+"/v2/"); (err == nil) != test.want {
				t.Errorf("got %v", err)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if Reachable(ended) {
		t.Error("reachable though the context has ended")
	}
}
