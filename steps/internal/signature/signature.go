// Package signature signs statements about images in sigstore's format, so that cosign verifies them: DSSE envelopes of
// in-toto statements, in bundles of version 0.3.
//
// It is the standard library's cryptography in a few lines of JSON. sigstore-go would do the same, and make of
// publish-image a binary of 21 MB, two and a half times as large (docs/platform/supply-chain.md).
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
	// RunPredicate is the predicate type of what a publisher says of the run that made an image
	// (docs/platform/provenance.md).
	RunPredicate = "https://stepwright.dev/attestations/run/v1"
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

// Statement is an in-toto statement about an image. Without a predicate, which is nil then, it is as cosign makes it.
// A predicate that is not encodable as JSON is a defect.
func Statement(image v1.Hash, predicateType string, predicate any) []byte {
	content, err := json.Marshal(struct {
		Type          string     `json:"_type"`
		Subject       []resource `json:"subject"`
		PredicateType string     `json:"predicateType"`
		Predicate     any        `json:"predicate,omitempty"`
	}{
		imagelayout.InToto, []resource{{map[string]string{image.Algorithm: image.Hex}}}, predicateType, predicate,
	})
	if err != nil {
		panic(err)
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
	switch about.PredicateType {
	case SignPredicate:
		return "", fmt.Errorf("a build signs nothing")
	case RunPredicate:
		return "", fmt.Errorf("a build does not say which run it is of")
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

// material is what a signature is verified with: a public key's name, or a certificate, and then who tells the time.
type material struct {
	PublicKey   *publicKey   `json:"publicKey,omitempty"`
	Certificate *certificate `json:"certificate,omitempty"`
	Entries     []logEntry   `json:"tlogEntries,omitempty"`
	Timestamps  *timestamps  `json:"timestampVerificationData,omitempty"`
}

type publicKey struct {
	Hint string `json:"hint"`
}

type certificate struct {
	RawBytes []byte `json:"rawBytes"` // DER
}

type timestamps struct {
	RFC3161 []signedTimestamp `json:"rfc3161Timestamps"`
}

type signedTimestamp struct {
	SignedTimestamp []byte `json:"signedTimestamp"` // a TimeStampResp, DER
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

// seal is the envelope of a statement and its signature.
func seal(statement, signed []byte) envelope {
	return envelope{statement, string(imagelayout.StatementType), []sig{{signed}}}
}

// encode is a bundle as JSON.
func encode(with material, signed envelope) ([]byte, error) {
	return json.Marshal(bundle{BundleMediaType, with, signed})
}
