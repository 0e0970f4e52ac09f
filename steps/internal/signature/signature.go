// Package signature signs statements about images in sigstore's format, so that cosign verifies them: DSSE envelopes of
// in-toto statements, in bundles of version 0.3.
//
// It is the standard library's cryptography in a few lines of JSON. sigstore-go would do the same, and make of
// publish-image a binary of 21 MB, two and a half times as large (docs/supply-chain.md).
package signature

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

const (
	// BundleMediaType is the media type of bundles, and the type of the artifacts that hold them.
	BundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// SignPredicate is the predicate type of a signature: it says of an image that its publisher stands for it.
	SignPredicate = "https://sigstore.dev/cosign/sign/v1"
)

// Signer signs.
type Signer interface {
	// Bundle returns the bundle of a signed statement, as JSON. The error is an outcome.Error.
	Bundle(ctx context.Context, statement []byte) ([]byte, error)
	// Made tells whether a bundle, as JSON, is one that Bundle may have returned for the statement.
	Made(bundle, statement []byte) bool
}

// resource is what a statement is about.
type resource struct {
	Digest map[string]string `json:"digest"`
}

// Statement is the statement that signs an image, as cosign makes it.
func Statement(image v1.Hash) []byte {
	content, err := json.Marshal(struct {
		Type          string     `json:"_type"`
		Subject       []resource `json:"subject"`
		PredicateType string     `json:"predicateType"`
	}{
		imagelayout.InToto, []resource{{map[string]string{image.Algorithm: image.Hex}}}, SignPredicate,
	})
	if err != nil {
		panic(err) // texts are always encodable
	}
	return content
}

// About returns the predicate type of an in-toto statement that is about an image. A statement about something else, or
// that is none, is an error.
func About(statement []byte, image v1.Hash) (predicate string, err error) {
	var about struct {
		Type          string     `json:"_type"`
		Subject       []resource `json:"subject"`
		PredicateType string     `json:"predicateType"`
	}
	if err := json.Unmarshal(statement, &about); err != nil {
		return "", err
	}
	switch about.Type {
	case imagelayout.InToto, "https://in-toto.io/Statement/v0.1":
	default:
		return "", fmt.Errorf("it is no in-toto statement, but %q", about.Type)
	}
	if about.PredicateType == "" {
		return "", fmt.Errorf("it has no predicate type")
	}
	if about.PredicateType == SignPredicate {
		return "", fmt.Errorf("a build signs nothing")
	}
	if len(about.Subject) == 0 {
		return "", fmt.Errorf("it is about nothing")
	}
	for _, subject := range about.Subject {
		if subject.Digest[image.Algorithm] != image.Hex {
			return "", fmt.Errorf("it is about something else than %s", image)
		}
	}
	return about.PredicateType, nil
}

// bundle is a bundle as JSON (protobuf-specs, dev.sigstore.bundle.v1.Bundle).
type bundle struct {
	MediaType            string   `json:"mediaType"`
	VerificationMaterial material `json:"verificationMaterial"`
	DSSEEnvelope         envelope `json:"dsseEnvelope"`
}

type material struct {
	PublicKey publicKey `json:"publicKey"`
}

type publicKey struct {
	Hint string `json:"hint"`
}

// envelope is a DSSE envelope: what is signed is pae of it.
type envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []sig  `json:"signatures"`
}

type sig struct {
	Sig []byte `json:"sig"`
}

// pae is what a DSSE signature signs: its pre-authentication encoding.
func pae(statement []byte) []byte {
	const kind = imagelayout.StatementType
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement)
}

// encode is a bundle of a statement and its signature.
func encode(with material, statement, signed []byte) ([]byte, error) {
	signedStatement := envelope{statement, string(imagelayout.StatementType), []sig{{signed}}}
	return json.Marshal(bundle{BundleMediaType, with, signedStatement})
}
