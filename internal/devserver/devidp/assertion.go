package devidp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Trusted is another issuer of tokens whose subjects are clients here, such as a cluster with its service accounts or
// a CI with its jobs.
type Trusted struct {
	Issuer   string
	Audience string            // that its tokens may name, beside the URL of the provider or of its token endpoint
	Subjects map[string]string // clients by subject
	Keys     func(context.Context) (jose.JSONWebKeySet, error)
}

// verify fails unless a form has an assertion that proves that it comes from the client.
func (e Endpoint) verify(r *http.Request, client string) error {
	form := r.PostForm
	if got := form.Get("client_assertion_type"); got != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return fmt.Errorf("client_assertion_type %q is not known", got)
	}
	if form.Has("client_secret") {
		return errors.New("a client authenticates in one way only")
	}
	token, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return errors.New("the assertion is no JWT")
	}
	var claims jwt.Claims
	if err := token.UnsafeClaimsWithoutVerification(&claims); err != nil {
		return errors.New("the assertion has no claims")
	}
	for _, t := range e.Trusted {
		if t.Issuer != claims.Issuer {
			continue
		}
		keys, err := t.Keys(r.Context())
		if err != nil {
			return fmt.Errorf("the keys of %s: %w", t.Issuer, err)
		}
		if err := token.Claims(keys, &claims); err != nil {
			return errors.New("the assertion's signature is not of its issuer")
		}
		if claims.Expiry == nil {
			return errors.New("the assertion does not end")
		}
		audiences := jwt.Audience{Base(r), Base(r) + "/", Base(r) + r.URL.Path}
		if t.Audience != "" {
			audiences = append(audiences, t.Audience)
		}
		expected := jwt.Expected{Issuer: t.Issuer, AnyAudience: audiences, Time: time.Now()}
		if err := claims.Validate(expected); err != nil {
			return err
		}
		if known := t.Subjects[claims.Subject]; known == "" || known != client {
			return fmt.Errorf("the subject %s is not the client %s", claims.Subject, client)
		}
		return nil
	}
	return fmt.Errorf("the issuer %s is not trusted", claims.Issuer)
}

// Trusted lets subjects of this provider be clients of another, by tokens for that audience.
func (p *Provider) Trusted(audience string, subjects map[string]string) Trusted {
	keys := p.published()
	return Trusted{
		Issuer: p.options.Issuer, Audience: audience, Subjects: subjects,
		Keys: func(context.Context) (jose.JSONWebKeySet, error) { return keys, nil },
	}
}

// JobTokens gives a job its id token as GitHub Actions does, whatever audience it asks for.
type JobTokens struct {
	Provider *Provider
	Subject  string // of the job
	Secret   string // what the job gets it by
}

func (j JobTokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+j.Secret {
		writeJSON(w, http.StatusUnauthorized, map[string]string{"message": "the request token is not valid"})
		return
	}
	audience, now := r.URL.Query().Get("audience"), time.Now()
	if audience == "" {
		audience = "https://github.com/acme"
	}
	token, err := j.Provider.Sign(map[string]any{
		"sub": j.Subject, "aud": audience, "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
	if err != nil {
		writeJSON(w, http.StatusInternalServerError, map[string]string{"message": err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"count": len(token), "value": token})
}
