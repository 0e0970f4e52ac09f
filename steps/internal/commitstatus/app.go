package commitstatus

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Times of an App's token. GitHub takes none that is good for more than 10 minutes, and wants it to be issued a minute
// ago, as clocks differ: "Generating a JSON Web Token (JWT) for a GitHub App" at https://docs.github.com/apps.
const (
	before   = time.Minute
	lifetime = 8 * time.Minute
)

// installationToken is a token for the repository of the target, and for statuses only. It is asked for once.
func (c *client) installationToken(ctx context.Context, who credentials) (string, error) {
	if c.token != "" {
		return c.token, nil
	}
	app, err := who.appToken(time.Now())
	if err != nil {
		return "", err
	}
	c.secrets.Add(app)
	asApp := func(h http.Header) { bearer(h, credentials{token: app}) }
	installation := who.installationID
	if installation == "" {
		// https://docs.github.com/rest/apps/apps#get-a-repository-installation-for-the-authenticated-app
		var found struct {
			ID int64 `json:"id"`
		}
		path := append(append([]string{"repos"}, c.at.repository...), "installation")
		if err := c.call(ctx, http.MethodGet, path, nil, asApp, &found); err != nil {
			return "", err
		}
		installation = strconv.FormatInt(found.ID, 10)
	}
	// https://docs.github.com/rest/apps/apps#create-an-installation-access-token-for-an-app
	asked := map[string]any{
		"repositories": []string{c.at.repository[1]}, "permissions": map[string]string{"statuses": "write"},
	}
	var given struct {
		Token string `json:"token"`
	}
	path := []string{"app", "installations", installation, "access_tokens"}
	if err := c.call(ctx, http.MethodPost, path, asked, asApp, &given); err != nil {
		return "", err
	}
	if given.Token == "" {
		return "", outcome.Errorf(outcome.GitServerUnavailable, "%s: the answer has no token", c.at.api.Host)
	}
	c.secrets.Add(given.Token)
	c.token = given.Token
	return c.token, nil
}

// appToken is the token by which the App itself asks. The error is an AuthenticationFailed.
func (c credentials) appToken(now time.Time) (string, error) {
	key, err := c.key()
	if err != nil {
		return "", err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"),
	)
	if err != nil {
		return "", unusable(err)
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: c.appID, IssuedAt: jwt.NewNumericDate(now.Add(-before)), Expiry: jwt.NewNumericDate(now.Add(lifetime)),
	}).Serialize()
	if err != nil {
		return "", unusable(err)
	}
	return token, nil
}

// key reads the private key, PKCS #1 as GitHub has it, or PKCS #8.
func (c credentials) key() (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(c.privateKey))
	if block == nil {
		return nil, outcome.Errorf(outcome.AuthenticationFailed, "private-key holds no PEM").WithHint(keyHint)
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, unusable(err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, outcome.Errorf(outcome.AuthenticationFailed, "private-key is no RSA key").WithHint(keyHint)
	}
	return key, nil
}

const keyHint = "Put the App's private key into the Secret as GitHub gave it: -----BEGIN RSA PRIVATE KEY-----."

func unusable(err error) error {
	return outcome.Errorf(outcome.AuthenticationFailed, "private-key is not usable: %w", err).WithHint(keyHint)
}
