package signature

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"slices"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// maxChain is how many certificates Fulcio may answer with.
const maxChain = 10

// certify asks Fulcio for a certificate of a key, for the identity of a token. The first of the certificates is the
// key's, and each is signed by the next one.
func (k *Keyless) certify(ctx context.Context, token string, key *ecdsa.PrivateKey) ([]*x509.Certificate, error) {
	// A request signed by the key shows whose it is. What Fulcio certifies it takes from the token alone.
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "ask for a certificate: %w", err)
	}
	var asked struct {
		Credentials struct {
			OIDCIdentityToken string `json:"oidcIdentityToken"`
		} `json:"credentials"`
		CertificateSigningRequest []byte `json:"certificateSigningRequest"` // PEM
	}
	asked.Credentials.OIDCIdentityToken = token
	asked.CertificateSigningRequest = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	body, err := json.Marshal(asked)
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "ask for a certificate: %w", err)
	}
	const path = "/api/v2/signingCert"
	got, err := k.fulcio.ask(
		ctx, http.MethodPost, path, "application/json", body, http.StatusOK, http.StatusCreated,
	)
	if err != nil {
		return nil, err
	}
	type certificates struct {
		Chain struct {
			Certificates []string `json:"certificates"` // PEM
		} `json:"chain"`
	}
	var given struct {
		Embedded certificates `json:"signedCertificateEmbeddedSct"`
		Detached certificates `json:"signedCertificateDetachedSct"`
	}
	if err := json.Unmarshal(got.body, &given); err != nil {
		return nil, k.fulcio.nonsense("%w", err)
	}
	listed := slices.Concat(given.Embedded.Chain.Certificates, given.Detached.Chain.Certificates)
	return k.chain(listed, key)
}

// chain reads Fulcio's certificates, and takes them only for the key.
func (k *Keyless) chain(listed []string, key *ecdsa.PrivateKey) ([]*x509.Certificate, error) {
	if len(listed) == 0 || len(listed) > maxChain {
		return nil, k.fulcio.nonsense("it has %d certificates", len(listed))
	}
	var chain []*x509.Certificate
	for i, text := range listed {
		block, _ := pem.Decode([]byte(text))
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, k.fulcio.nonsense("certificate %d is not PEM", i)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, k.fulcio.nonsense("certificate %d: %w", i, err)
		}
		if i > 0 {
			if err := chain[i-1].CheckSignatureFrom(certificate); err != nil {
				return nil, k.fulcio.nonsense("certificate %d is not signed by the next one: %w", i-1, err)
			}
		}
		chain = append(chain, certificate)
	}
	leaf := chain[0]
	switch {
	case !key.PublicKey.Equal(leaf.PublicKey):
		return nil, k.fulcio.nonsense("its certificate is for another key")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageCodeSigning):
		return nil, k.fulcio.nonsense("its certificate is not one to sign with")
	case extension(leaf, namesExtension) == nil:
		return nil, k.fulcio.nonsense("its certificate is for nobody")
	case !leaf.NotAfter.After(time.Now()):
		return nil, k.fulcio.nonsense(
			"its certificate was good until %s only", leaf.NotAfter.UTC().Format(time.RFC3339),
		)
	}
	return chain, nil
}
