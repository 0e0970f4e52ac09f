// Package devidp is an OAuth 2 identity provider for a developer's machine and for tests: it gives clients it knows
// tokens that OpenChoreo's API server accepts.
//
//	POST /oauth2/token   client_credentials, the client's secret or an assertion in the form
//	GET  /jwks           the key that tokens are signed with
//	GET  /healthz
//	GET  /.well-known/openid-configuration, /.well-known/oauth-authorization-server
//
// Tokens are RS256, and their claims sub and client_id are the client. The key lives as long as the Provider.
package devidp

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Options say whom a provider knows.
type Options struct {
	Issuer   string            // its URL, the claim iss
	Clients  map[string]string // secrets by client
	Trusted  []Trusted         // whose tokens prove who a client is, in place of its secret
	Lifetime time.Duration     // of a token; 0: one hour
}

// Provider is an http.Handler.
type Provider struct {
	options Options
	key     *rsa.PrivateKey
	mux     http.ServeMux
}

const keyID = "devidp"

// New makes a provider with a key of its own.
func New(o Options) (*Provider, error) {
	if o.Lifetime == 0 {
		o.Lifetime = time.Hour
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the key for tokens: %w", err)
	}
	p := &Provider{options: o, key: key}
	p.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	p.mux.HandleFunc("GET /jwks", p.keys)
	p.mux.Handle("POST "+TokenPath, Endpoint{
		Clients: o.Clients, Trusted: o.Trusted, Lifetime: o.Lifetime,
		Issue: func(client string) (string, error) { return p.sign(client, time.Now()) },
	})
	for _, path := range MetadataPaths {
		p.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { WriteMetadata(w, o.Issuer) })
	}
	return p, nil
}

func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.mux.ServeHTTP(w, r) }

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, p.published())
}

// TokenPath is where a token endpoint is.
const TokenPath = "/oauth2/token"

// MetadataPaths are where WriteMetadata is to be served: by OpenID Connect Discovery and by RFC 8414.
var MetadataPaths = []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"}

// Base is the URL of a server, as the one who asks it has it.
func Base(r *http.Request) string {
	if r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// WriteMetadata answers with the metadata of an issuer that has its endpoints below its own URL.
func WriteMetadata(w http.ResponseWriter, issuer string) {
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": issuer, "token_endpoint": issuer + TokenPath, "jwks_uri": issuer + "/jwks",
		"authorization_endpoint":                issuer + "/authorize", // nobody is there, but occ login wants one
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"},
	})
}

// Endpoint answers requests for tokens as OpenChoreo's default identity provider: client_credentials, with the client's
// secret in the form, never in a header. In place of the secret it takes assertions of those it trusts (RFC 7523).
type Endpoint struct {
	Clients  map[string]string // secrets by client
	Trusted  []Trusted
	Lifetime time.Duration // of a token
	Issue    func(client string) (token string, err error)
}

func (e Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	refuse := func(status int, code, description string) {
		writeJSON(w, status, map[string]string{"error": code, "error_description": description})
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		refuse(http.StatusBadRequest, "invalid_request", "the body is not a form")
		return
	}
	client := r.PostForm.Get("client_id")
	secret, known := e.Clients[client]
	asserted := r.PostForm.Get("client_assertion") != ""
	if asserted {
		if err := e.verify(r, client); err != nil {
			refuse(http.StatusUnauthorized, "invalid_client", err.Error())
			return
		}
	}
	matches := subtle.ConstantTimeCompare([]byte(secret), []byte(r.PostForm.Get("client_secret"))) == 1
	switch {
	case r.Header.Get("Authorization") != "":
		refuse(http.StatusUnauthorized, "unauthorized_client", "the client must authenticate with client_secret_post")
		return
	case !asserted && !(known && matches):
		refuse(http.StatusUnauthorized, "invalid_client", "Invalid client credentials")
		return
	case r.PostForm.Get("grant_type") != "client_credentials":
		refuse(http.StatusBadRequest, "unsupported_grant_type", "only client_credentials is supported")
		return
	}
	token, err := e.Issue(client)
	if err != nil {
		refuse(http.StatusInternalServerError, "server_error", err.Error())
		return
	}
	answer := map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": int(e.Lifetime.Seconds())}
	if scope := r.PostForm.Get("scope"); scope != "" {
		answer["scope"] = scope
	}
	writeJSON(w, http.StatusOK, answer)
}

// sign makes a token of a client.
func (p *Provider) sign(client string, now time.Time) (string, error) {
	return p.Sign(map[string]any{
		"sub": client, "client_id": client, "iat": now.Unix(), "exp": now.Add(p.options.Lifetime).Unix(),
	})
}

// Sign makes a token of this issuer with any claims: a JWS in its compact form.
func (p *Provider) Sign(claims map[string]any) (string, error) {
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.key, KeyID: keyID}},
		(&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Claims(jwt.Claims{Issuer: p.options.Issuer}).Serialize()
}

// published are the keys that tokens are verified with.
func (p *Provider) published() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: p.key.Public(), KeyID: keyID, Algorithm: string(jose.RS256), Use: "sig",
	}}}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // an error here is the client's having gone
}
