package main

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// A signingKey signs without random numbers: the same statement has the same signature.
type signingKey struct {
	private crypto.Signer
	hash    crypto.Hash // 0 where the key hashes by itself
}

// loadKey reads a private key in PEM as publish-image does, with the password that it is encrypted with in another
// file. There need be none.
func loadKey(file, passwordFile string) (signingKey, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return signingKey{}, err
	}
	password, err := os.ReadFile(passwordFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return signingKey{}, err
	}
	password = bytes.TrimRight(password, "\r\n")
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(content, cryptoutils.StaticPasswordFunc(password))
	if err != nil {
		return signingKey{}, fmt.Errorf("%s: %w", file, err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		return signingKey{}, fmt.Errorf("%s: a key of type %T signs nothing", file, private)
	}
	algorithm, err := signature.GetDefaultAlgorithmDetails(signer.Public())
	if err != nil {
		return signingKey{}, fmt.Errorf("%s: %w", file, err)
	}
	return signingKey{signer, algorithm.GetHashType()}, nil
}

// bundle is the bundle of a signed in-toto statement, in sigstore's format: what publish-image makes for statements
// about images, for one about files.
func (k signingKey) bundle(statement []byte) ([]byte, error) {
	const kind = "application/vnd.in-toto+json"
	message := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement)
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	signed, err := k.private.Sign(nil, message, k.hash)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		return nil, err
	}
	hint := sha256.Sum256(public) // as cosign names a key
	return json.Marshal(map[string]any{
		"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
		"verificationMaterial": map[string]any{
			"publicKey": map[string]string{"hint": base64.StdEncoding.EncodeToString(hint[:])},
		},
		"dsseEnvelope": map[string]any{
			"payload": statement, "payloadType": kind, "signatures": []any{map[string]any{"sig": signed}},
		},
	})
}
