package devapi

import (
	"crypto/rand"
	"crypto/subtle"
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

// issueToken answers as OpenChoreo's default identity provider: client_credentials, with the client's secret in the body.
func (s *Server) issueToken(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(status int, code, description string) {
		writeJSON(w, status, map[string]string{"error": code, "error_description": description})
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "invalid_request", "the body is not a form")
		return
	}
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	switch {
	case r.Header.Get("Authorization") != "":
		refuse(http.StatusUnauthorized, "unauthorized_client", "the client must authenticate with client_secret_post")
	case !same(r.PostForm.Get("client_id"), s.options.ClientID) || !same(r.PostForm.Get("client_secret"), s.options.ClientSecret):
		refuse(http.StatusUnauthorized, "invalid_client", "Invalid client credentials")
	case r.PostForm.Get("grant_type") != "client_credentials":
		refuse(http.StatusBadRequest, "unsupported_grant_type", "only client_credentials is supported")
	default:
		writeJSON(w, http.StatusOK, map[string]any{
			"access_token": s.tokens.issue(s.options.TokenLifetime),
			"token_type":   "Bearer",
			"expires_in":   int(s.options.TokenLifetime.Seconds()),
			"scope":        r.PostForm.Get("scope"),
		})
	}
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
