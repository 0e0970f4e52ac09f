package devapi

import (
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tokens are those that the token endpoint gave, with the time they end.
type tokens struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (t *tokens) issue(lifetime time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for token, until := range t.until {
		if until.Before(now) {
			delete(t.until, token)
		}
	}
	token := rand.Text() + rand.Text()
	t.until[token] = now.Add(lifetime)
	return token
}

func (t *tokens) valid(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now().Before(t.until[token])
}

func (t *tokens) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.until)
}

// authenticated lets requests with a valid token through.
func (s *Server) authenticated(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		refuse := func(code, message string) {
			writeJSON(w, http.StatusUnauthorized, map[string]string{"error": code, "message": message})
		}
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		switch {
		case !strings.EqualFold(scheme, "Bearer"):
			refuse("MISSING_TOKEN", "missing or invalid authentication token")
		case !s.tokens.valid(token):
			refuse("INVALID_TOKEN", "invalid or expired token")
		default:
			next(w, r)
		}
	}
}
