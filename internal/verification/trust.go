// Package verification finds out who signed an image, and how it was built, by the bundles of sigstore that refer to
// the image. It asks nobody but the registry.
package verification

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
)

// Trust says whose signatures count: those of one public key, or those of an identity that an issuer vouches for.
type Trust struct {
	verifier *verify.Verifier
	policy   []verify.PolicyOption
	key      string // its digest, by which bundles name it; empty for an identity
}

// ByKey trusts a public key: ECDSA, Ed25519 or RSA.
func ByKey(public crypto.PublicKey) (*Trust, error) {
	verifier, err := signature.LoadDefaultVerifier(public)
	if err != nil {
		return nil, err
	}
	key := root.NewExpiringKey(verifier, time.Time{}, time.Time{})
	material := root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil })
	v, err := verify.NewVerifier(material, verify.WithNoObserverTimestamps())
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(der)
	return &Trust{v, []verify.PolicyOption{verify.WithKey()}, base64.StdEncoding.EncodeToString(sum[:])}, nil
}

// Identity is who a certificate must be for. Each of both is a text or a regular expression, and not both.
type Identity struct {
	Subject, SubjectRegexp string
	Issuer, IssuerRegexp   string
}

// ByIdentity trusts an identity by a trusted root, the JSON of a file: a certificate of its authorities, at a time that
// its timestamp authority or transparency log tells. Where it lists transparency logs, or logs of certificates, a
// signature must be in one of each.
func ByIdentity(trustedRoot []byte, who Identity) (*Trust, error) {
	material, err := root.NewTrustedRootFromJSON(trustedRoot)
	if err != nil {
		return nil, fmt.Errorf("the trusted root: %w", err)
	}
	if len(material.FulcioCertificateAuthorities()) == 0 {
		return nil, errors.New("the trusted root has no authority for certificates")
	}
	options := []verify.VerifierOption{verify.WithObserverTimestamps(1)}
	if len(material.RekorLogs()) > 0 {
		options = append(options, verify.WithTransparencyLog(1))
	}
	if len(material.CTLogs()) > 0 {
		options = append(options, verify.WithSignedCertificateTimestamps(1))
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return nil, err
	}
	identity, err := verify.NewShortCertificateIdentity(
		who.Issuer, who.IssuerRegexp, who.Subject, who.SubjectRegexp,
	)
	if err != nil {
		return nil, err
	}
	return &Trust{v, []verify.PolicyOption{verify.WithCertificateIdentity(identity)}, ""}, nil
}

// Statement is what a trusted bundle says.
type Statement struct {
	Predicate string // its type
	Payload   []byte // the in-toto statement, JSON
	Signer    Signer
}

// Signer is who signed.
type Signer struct {
	Key      string     `json:"key,omitempty"`      // SHA-256 of the public key in DER, in base64
	Identity string     `json:"identity,omitempty"` // of a certificate, and who vouches for it
	Issuer   string     `json:"issuer,omitempty"`
	Time     *time.Time `json:"time,omitempty"` // when, as an authority or a log tells it
}

// Verify verifies a bundle, as JSON, about a manifest. The error says why it does not count.
func (t *Trust) Verify(content []byte, about v1.Hash) (Statement, error) {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(content); err != nil {
		return Statement{}, err
	}
	digest, err := hex.DecodeString(about.Hex)
	if err != nil {
		return Statement{}, err
	}
	policy := verify.NewPolicy(verify.WithArtifactDigest(about.Algorithm, digest), t.policy...)
	result, err := t.verifier.Verify(&b, policy)
	if err != nil {
		return Statement{}, err
	}
	envelope, err := b.Envelope()
	if err != nil {
		return Statement{}, err
	}
	payload, err := envelope.RawEnvelope().DecodeB64Payload()
	if err != nil {
		return Statement{}, err
	}
	statement := Statement{Predicate: result.Statement.GetPredicateType(), Payload: payload}
	statement.Signer.Key = t.key
	if certificate := result.Signature.Certificate; certificate != nil {
		statement.Signer.Identity, statement.Signer.Issuer = certificate.SubjectAlternativeName, certificate.Issuer
	}
	if len(result.VerifiedTimestamps) > 0 {
		at := result.VerifiedTimestamps[0].Timestamp.UTC()
		statement.Signer.Time = &at
	}
	return statement, nil
}
