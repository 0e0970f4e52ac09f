package signature

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
)

// Key signs with a private key. Its signatures are deterministic: one statement has one bundle.
type Key struct {
	private crypto.Signer
	hash    crypto.Hash // of what is signed; 0 where the key hashes by itself
	hint    string      // the public key's name in bundles, as cosign gives it
}

// minRSA and maxRSA are the sizes of RSA keys in bits that sigstore takes.
const (
	minRSA = 2048
	maxRSA = 4096
)

// LoadKey reads a private key in PEM: one that cosign encrypted with a password, which is in a file of its own, or an
// unencrypted one (PKCS #8, PKCS #1, SEC 1) of ECDSA P-256 or P-384, Ed25519, or RSA. A file that is not there is an
// empty password. Both are added to the secrets. The error is a SigningFailed, and tells nothing of what the files
// hold.
func LoadKey(keyPath, passwordPath string, secrets *redact.Secrets) (*Key, error) {
	content, err := secret.ReadFile(keyPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, outcome.Errorf(
			outcome.SigningFailed, "signing-key: there is no %q, and signing=key wants a private key", keyPath,
		)
	}
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "signing-key: %w", err)
	}
	secrets.Add(string(content))
	key, err := parse(content, func() ([]byte, error) {
		if passwordPath == "" {
			return nil, nil
		}
		password, err := secret.ReadFile(passwordPath)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		secrets.Add(string(password), string(bytes.TrimRight(password, "\r\n")))
		return password, err
	})
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "signing-key: %s: %w", keyPath, err)
	}
	return key, nil
}

// parse reads a key. Its errors quote nothing of it.
func parse(content []byte, password func() ([]byte, error)) (*Key, error) {
	block := firstKey(content)
	if block == nil {
		return nil, errors.New("it holds no private key in PEM")
	}
	var private any
	var err error
	switch block.Type {
	case "ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY":
		var secret, plain []byte
		if secret, err = password(); err != nil {
			return nil, fmt.Errorf("its password: %w", err)
		}
		plain, err = encrypted.Decrypt(block.Bytes, secret)
		if typed := bytes.TrimRight(secret, "\r\n"); err != nil && len(typed) < len(secret) { // an editor's line end
			plain, err = encrypted.Decrypt(block.Bytes, typed)
		}
		if err != nil {
			return nil, errors.New("signing-password is not the password that it is encrypted with")
		}
		private, err = x509.ParsePKCS8PrivateKey(plain)
	case "PRIVATE KEY":
		private, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		private, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, errors.New(
			"it is neither encrypted by cosign nor unencrypted: cosign import-key-pair makes one that is",
		)
	}
	if err != nil {
		return nil, errors.New("its private key is damaged")
	}
	return newKey(private)
}

// firstKey is the first private key in a PEM file: openssl writes the parameters of a curve before it.
func firstKey(content []byte) *pem.Block {
	for {
		block, rest := pem.Decode(content)
		if block == nil || bytes.HasSuffix([]byte(block.Type), []byte("PRIVATE KEY")) {
			return block
		}
		content = rest
	}
}

func newKey(private any) (*Key, error) {
	key := &Key{}
	switch private := private.(type) {
	case *ecdsa.PrivateKey:
		key.private = private
		switch private.Curve {
		case elliptic.P256():
			key.hash = crypto.SHA256
		case elliptic.P384():
			key.hash = crypto.SHA384
		default:
			return nil, errors.New("its curve is neither P-256 nor P-384")
		}
	case *rsa.PrivateKey:
		if bits := private.N.BitLen(); bits < minRSA || bits > maxRSA {
			return nil, fmt.Errorf("an RSA key of %d bits is not taken: between %d and %d are", bits, minRSA, maxRSA)
		}
		key.private, key.hash = private, crypto.SHA256
	case ed25519.PrivateKey:
		key.private = private
	default:
		return nil, errors.New("its key is neither ECDSA, nor Ed25519, nor RSA")
	}
	public, err := x509.MarshalPKIXPublicKey(key.private.Public())
	if err != nil {
		return nil, errors.New("its private key is damaged")
	}
	sum := sha256.Sum256(public)
	key.hint = base64.StdEncoding.EncodeToString(sum[:])
	return key, nil
}

// sign signs a message. Without a source of random numbers ECDSA is deterministic (RFC 6979), as Ed25519 and the PKCS
// #1 v1.5 of RSA are anyway.
func (k *Key) sign(message []byte) ([]byte, error) {
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(message)
		message = h.Sum(nil)
	}
	signed, err := k.private.Sign(nil, message, k.hash)
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "sign: %w", err)
	}
	return signed, nil
}

// Bundle implements Signer.
func (k *Key) Bundle(_ context.Context, statement []byte) ([]byte, error) {
	signed, err := k.sign(pae(statement))
	if err != nil {
		return nil, err
	}
	return encode(material{PublicKey: &publicKey{k.hint}}, seal(statement, signed))
}

// Made implements Signer.
func (k *Key) Made(bundle, statement []byte) bool {
	own, err := k.Bundle(context.Background(), statement)
	return err == nil && bytes.Equal(own, bundle)
}
