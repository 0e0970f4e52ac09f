package signature

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
)

// Sigstore says where the services of a sigstore are, by URLs. Without Timestamp or Rekor there is none of them; one of
// both there must be, since a certificate that is good for minutes needs somebody who tells when it was used.
type Sigstore struct {
	Fulcio    string // gives certificates
	PlainHTTP bool   // the token may go to Fulcio over plain HTTP
	Timestamp string // timestamp authority (RFC 3161), with its path
	Rekor     string // transparency log
	TokenFile string // of the identity
	Transport http.RoundTripper
	Secrets   *redact.Secrets // hear of the token
}

// Keyless signs with keys of its own that live for minutes, which Fulcio certifies for the identity of a token. It is
// not safe for concurrent use.
type Keyless struct {
	tokenFile          string
	secrets            *redact.Secrets
	fulcio, tsa, rekor *service // the last two may be nil
	held               certified
}

// certified is a key, and the certificate of its public part.
type certified struct {
	key         *Key
	leaf        *x509.Certificate
	authorities []*x509.Certificate // the leaf's issuer first
	since       time.Time           // by the clock of this machine
}

// NewKeyless returns a signer without a certificate. The error is an outcome.Error.
func NewKeyless(at Sigstore) (*Keyless, error) {
	if at.Fulcio == "" {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "fulcio-url: it is empty, and signing=keyless wants the URL of a Fulcio",
		)
	}
	if at.Timestamp == "" && at.Rekor == "" {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "timestamp-url, rekor-url: both are empty, and signing=keyless wants one",
		).WithHint("A certificate is good for minutes: a timestamp authority or a log must tell when it was used.")
	}
	if !at.PlainHTTP && !strings.HasPrefix(at.Fulcio, "https://") {
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "fulcio-url: over plain HTTP the identity's token would travel unprotected",
		).WithHint("Use https, or where that is acceptable, set insecure-fulcio-http.")
	}
	k := &Keyless{tokenFile: at.TokenFile, secrets: at.Secrets}
	var err error
	k.fulcio, err = newService("fulcio-url", at.Fulcio, at.Transport, at.Secrets,
		"Check that Fulcio knows the issuer of the token in signing-identity-token-file, and its audience.")
	if err == nil && at.Timestamp != "" {
		k.tsa, err = newService("timestamp-url", at.Timestamp, at.Transport, at.Secrets, "")
	}
	if err == nil && at.Rekor != "" {
		k.rekor, err = newService("rekor-url", at.Rekor, at.Transport, at.Secrets, "")
	}
	return k, err
}

// Identify gets a certificate for a new key, by the token that the file holds now. The error is an outcome.Error; a
// transient one is worth another try.
func (k *Keyless) Identify(ctx context.Context) error {
	token, err := k.token()
	if err != nil {
		return err
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return outcome.Errorf(outcome.SigningFailed, "make a key: %w", err)
	}
	key, err := newKey(private)
	if err != nil {
		return outcome.Errorf(outcome.SigningFailed, "make a key: %w", err)
	}
	since := time.Now()
	chain, err := k.certify(ctx, token, private)
	if err != nil {
		return err
	}
	k.held = certified{key, chain[0], chain[1:], since}
	return nil
}

// Identity is who signs, and who vouches for that, as the certificate tells it; both are empty without one.
func (k *Keyless) Identity() (subject, issuer string) {
	leaf := k.held.leaf
	if leaf == nil {
		return "", ""
	}
	switch {
	case len(leaf.URIs) > 0:
		subject = leaf.URIs[0].String()
	case len(leaf.EmailAddresses) > 0:
		subject = leaf.EmailAddresses[0]
	}
	if _, err := asn1.UnmarshalWithParams(extension(leaf, issuerExtension), &issuer, "utf8"); err != nil {
		return subject, ""
	}
	return subject, issuer
}

// The extensions of a certificate that tell whose it is: the issuer of the token, as Fulcio writes it, and the names.
var (
	issuerExtension = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}
	namesExtension  = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// extension is the value of an extension; nil where there is none.
func extension(of *x509.Certificate, id asn1.ObjectIdentifier) []byte {
	for _, e := range of.Extensions {
		if e.Id.Equal(id) {
			return e.Value
		}
	}
	return nil
}

// token reads the identity's token.
func (k *Keyless) token() (string, error) {
	content, err := secret.ReadFile(k.tokenFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", outcome.Errorf(
			outcome.SigningFailed, "signing-identity-token-file: there is no %q, and signing=keyless wants a token",
			k.tokenFile,
		)
	}
	if err != nil {
		return "", outcome.Errorf(outcome.SigningFailed, "signing-identity-token-file: %w", err)
	}
	token := strings.TrimSpace(string(content))
	k.secrets.Add(token)
	strange := func(r rune) bool { return r <= ' ' || r > '~' }
	if strings.Count(token, ".") != 2 || strings.ContainsFunc(token, strange) {
		return "", outcome.Errorf(
			outcome.SigningFailed, "signing-identity-token-file: %s holds no token of an identity (JWT)", k.tokenFile,
		)
	}
	return token, nil
}

// fresh tells whether a certificate has enough of its life left. Its clock is another one than this machine's, so that
// the time since it was asked for counts.
func (c certified) fresh() bool {
	return c.leaf != nil && time.Since(c.since) < c.leaf.NotAfter.Sub(c.leaf.NotBefore)*3/4
}

// Bundle implements Signer. A certificate that comes to its end is replaced by another one.
func (k *Keyless) Bundle(ctx context.Context, statement []byte) ([]byte, error) {
	if !k.held.fresh() {
		if err := k.Identify(ctx); err != nil {
			return nil, err
		}
	}
	signed, err := k.held.key.sign(pae(statement))
	if err != nil {
		return nil, err
	}
	sealed := seal(statement, signed)
	with := material{Certificate: &certificate{k.held.leaf.Raw}}
	if k.tsa != nil {
		stamp, err := k.stamp(ctx, signed)
		if err != nil {
			return nil, err
		}
		with.Timestamps = &timestamps{[]signedTimestamp{{stamp}}}
	}
	if k.rekor != nil {
		entry, err := k.log(ctx, sealed)
		if err != nil {
			return nil, err
		}
		with.Entries = []logEntry{entry}
	}
	return encode(with, sealed)
}

// Made implements Signer: another certificate of the same authorities for the same identity has signed the statement,
// and has the proofs of time that are asked for.
func (k *Keyless) Made(content, statement []byte) bool {
	var b bundle
	if k.held.leaf == nil || json.Unmarshal(content, &b) != nil || b.VerificationMaterial.Certificate == nil ||
		len(b.DSSEEnvelope.Signatures) != 1 {
		return false
	}
	leaf, err := x509.ParseCertificate(b.VerificationMaterial.Certificate.RawBytes)
	if err != nil {
		return false
	}
	signed := b.DSSEEnvelope.Signatures[0].Sig
	return bytes.Equal(b.DSSEEnvelope.Payload, statement) &&
		leaf.CheckSignature(x509.ECDSAWithSHA256, pae(statement), signed) == nil &&
		k.held.sameIdentity(leaf) && k.proven(b, leaf)
}

// sameIdentity tells whether another certificate is of the same authorities for the same identity.
func (c certified) sameIdentity(other *x509.Certificate) bool {
	for _, id := range []asn1.ObjectIdentifier{namesExtension, issuerExtension} {
		if own := extension(c.leaf, id); own == nil || !bytes.Equal(own, extension(other, id)) {
			return false
		}
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for i, authority := range c.authorities {
		if i == len(c.authorities)-1 {
			roots.AddCert(authority)
		} else {
			between.AddCert(authority)
		}
	}
	_, err := other.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: other.NotBefore,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	return err == nil
}

// proven tells whether a bundle has the proofs of time that are asked for.
func (k *Keyless) proven(b bundle, leaf *x509.Certificate) bool {
	with, signed := b.VerificationMaterial, b.DSSEEnvelope.Signatures[0].Sig
	if k.tsa != nil {
		if with.Timestamps == nil || len(with.Timestamps.RFC3161) != 1 {
			return false
		}
		at, err := readTimestamp(with.Timestamps.RFC3161[0].SignedTimestamp, signed)
		if err != nil || goodAt(leaf, at) != nil {
			return false
		}
	}
	if k.rekor != nil {
		return len(with.Entries) == 1 && with.Entries[0].check(b.DSSEEnvelope, leaf) == nil
	}
	return true
}

// goodAt tells whether a certificate was good when somebody says that it was used.
func goodAt(leaf *x509.Certificate, at time.Time) error {
	if at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
		return fmt.Errorf(
			"its time is %s, and the certificate is good from %s to %s", at.UTC().Format(time.RFC3339),
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339),
		)
	}
	return nil
}
