package commitstatus

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
)

// A GitHub App asks for a token for statuses of that one repository, once for all attempts.
func TestApp(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	eighth, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	first := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	const given = "ghs_canary-installation"
	for name, test := range map[string]struct {
		credentials map[string]string
		want        []string
	}{
		"with its installation": {
			map[string]string{"app-id": "7", "installation-id": "99", "private-key": string(first)},
			[]string{"POST /app/installations/99/access_tokens", "POST /repos/acme/cart/statuses/" + commit,
				"POST /repos/acme/cart/statuses/" + commit},
		},
		"without": {
			map[string]string{"app-id": "7", "private-key": string(
				pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: eighth}),
			)},
			[]string{"GET /repos/acme/cart/installation", "POST /app/installations/42/access_tokens",
				"POST /repos/acme/cart/statuses/" + commit, "POST /repos/acme/cart/statuses/" + commit},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var tried atomic.Bool
			host := newHost(t, func(w http.ResponseWriter, r *http.Request) {
				bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
				if strings.Contains(r.URL.Path, "/statuses/") {
					switch {
					case bearer != given:
						w.WriteHeader(http.StatusUnauthorized)
					case !tried.Swap(true):
						w.WriteHeader(http.StatusBadGateway)
					default:
						w.WriteHeader(http.StatusCreated)
					}
					return
				}
				// As GitHub wants the App's own token.
				parsed, err := jwt.ParseSigned(bearer, []jose.SignatureAlgorithm{jose.RS256})
				var claims jwt.Claims
				if err == nil {
					err = parsed.Claims(&key.PublicKey, &claims)
				}
				if err != nil || claims.Issuer != "7" || !claims.IssuedAt.Time().Before(time.Now()) ||
					claims.Expiry.Time().Sub(claims.IssuedAt.Time()) > 10*time.Minute {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				if r.Method == http.MethodGet {
					fmt.Fprint(w, `{"id":42,"app_id":7}`)
					return
				}
				raw, _ := io.ReadAll(r.Body)
				var body map[string]any
				json.Unmarshal(raw, &body)
				if diff := cmp.Diff(map[string]any{
					"repositories": []any{"cart"}, "permissions": map[string]any{"statuses": "write"},
				}, body); diff != "" {
					t.Errorf("the token is for (-want +got)\n%s", diff)
				}
				w.WriteHeader(http.StatusCreated)
				fmt.Fprintf(w, `{"token":%q,"expires_at":"2099-01-01T00:00:00Z"}`, given)
			})
			in := parametersOf(t, github, host.URL)
			in.Credentials = credentialsIn(t, test.credentials)
			b := mustRun(t, in)
			var got []string
			for _, one := range host.requests() {
				got = append(got, one.Method+" "+one.Path)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if b.Secrets.String(given) == given {
				t.Error("the installation's token is no secret")
			}
		})
	}
}
