package sigstoretest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"testing"
)

const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	statementType = "application/vnd.in-toto+json"
)

// Bundle is the bundle of a statement that an identity signs, for which an issuer vouches: by a certificate of this
// sigstore, at a time that it tells.
func (s *Sigstore) Bundle(t testing.TB, statement []byte, identity, issuer string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(statementType), statementType, len(statement), statement)
	sum := sha256.Sum256(pae)
	signed, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	stamp, err := s.Stamp(Query(t, signed))
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]any{
		"mediaType": bundleType,
		"verificationMaterial": map[string]any{
			"certificate": map[string]any{"rawBytes": s.Certificate(t, key.Public(), identity, issuer).Raw},
			"timestampVerificationData": map[string]any{
				"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": stamp}},
			},
		},
		"dsseEnvelope": map[string]any{
			"payload": statement, "payloadType": statementType, "signatures": []any{map[string]any{"sig": signed}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return content
}
