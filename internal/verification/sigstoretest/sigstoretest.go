// Package sigstoretest is a small sigstore for tests: an authority that gives certificates to who has a token, as
// Fulcio does, a timestamp authority, and a transparency log, as Rekor is. All are doubles. Their certificates,
// timestamps and entries are of the real form that sigstore's own libraries verify.
package sigstoretest

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/sigstore-go/pkg/root"
)

// Sigstore is a running sigstore. It ends with the test.
type Sigstore struct {
	FulcioURL    string // without a path
	TimestampURL string
	RekorURL     string // without a path; empty without a log
	Root         []byte // trusted_root.json

	// Lifetime is how long certificates are good, from a minute ago on. 0 is eleven minutes.
	Lifetime time.Duration

	authority, timestamps authority
	log                   *transparencyLog
	stamping              *x509.Certificate
	stampingKey           *ecdsa.PrivateKey
}

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New starts a sigstore that speaks plain HTTP, without a log.
func New(t testing.TB) *Sigstore { return start(t, nil) }

// WithLog starts one whose trusted root has a log, too.
func WithLog(t testing.TB) *Sigstore { return start(t, newLog(t)) }

func start(t testing.TB, log *transparencyLog) *Sigstore {
	t.Helper()
	s := &Sigstore{
		log:       log,
		authority: newAuthority(t, "certificates"), timestamps: newAuthority(t, "timestamps"),
	}
	var err error
	if s.stampingKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	use, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		t.Fatal(err)
	}
	s.stamping = s.timestamps.issue(t, &s.stampingKey.PublicKey, &x509.Certificate{
		Subject:         pkix.Name{CommonName: "timestamps"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: use}},
	}, 0)
	since, until := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: s.authority.certificate, ValidityPeriodStart: since, ValidityPeriodEnd: until,
		}}, nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: s.timestamps.certificate, Leaf: s.stamping, ValidityPeriodStart: since, ValidityPeriodEnd: until,
		}}, log.trusted(since, until))
	if err != nil {
		t.Fatal(err)
	}
	if s.Root, err = trusted.MarshalJSON(); err != nil {
		t.Fatal(err)
	}
	routes := http.NewServeMux()
	routes.HandleFunc("POST /api/v2/signingCert", func(w http.ResponseWriter, r *http.Request) { s.certify(t, w, r) })
	routes.HandleFunc("POST /api/v1/timestamp", func(w http.ResponseWriter, r *http.Request) {
		query, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		answer, err := s.Stamp(query)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
		w.Write(answer)
	})
	if log != nil {
		routes.HandleFunc("POST /api/v1/log/entries", log.add)
		routes.HandleFunc("GET /api/v1/log/entries/{name}", log.get)
	}
	server := httptest.NewServer(routes)
	t.Cleanup(server.Close)
	s.FulcioURL, s.TimestampURL = server.URL, server.URL+"/api/v1/timestamp"
	if log != nil {
		s.RekorURL = server.URL
	}
	return s
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a := authority{template, key}
	a.certificate = a.sign(t, template, &key.PublicKey)
	return a
}

func (a authority) sign(t testing.TB, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// issue signs the certificate of somebody who signs, for minutes, or from a minute ago on for a lifetime.
func (a authority) issue(
	t testing.TB, public crypto.PublicKey, template *x509.Certificate, lifetime time.Duration,
) *x509.Certificate {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = template.NotBefore.Add(cmp.Or(lifetime, 11*time.Minute))
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return a.sign(t, template, public)
}

// Certificate certifies that a public key is an identity's, a URL, which an issuer vouches for.
func (s *Sigstore) Certificate(t testing.TB, public crypto.PublicKey, identity, issuer string) *x509.Certificate {
	t.Helper()
	who, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	named, err := asn1.MarshalWithParams(issuer, "utf8")
	if err != nil {
		t.Fatal(err)
	}
	return s.authority.issue(t, public, &x509.Certificate{
		URIs: []*url.URL{who}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: named},
		},
	}, s.Lifetime)
}

// Stamp answers a query for a timestamp (RFC 3161).
func (s *Sigstore) Stamp(query []byte) ([]byte, error) { return s.StampAt(query, time.Now()) }

// StampAt answers it with another time.
func (s *Sigstore) StampAt(query []byte, at time.Time) ([]byte, error) {
	asked, err := timestamp.ParseRequest(query)
	if err != nil {
		return nil, err
	}
	stamp := timestamp.Timestamp{
		HashAlgorithm: asked.HashAlgorithm, HashedMessage: asked.HashedMessage, Time: at,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, Nonce: asked.Nonce,
	}
	return stamp.CreateResponseWithOpts(s.stamping, s.stampingKey, crypto.SHA256)
}

// Query is the query for a timestamp of a signature.
func Query(t testing.TB, signature []byte) []byte {
	t.Helper()
	query, err := timestamp.CreateRequest(bytes.NewReader(signature), &timestamp.RequestOptions{Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	return query
}

// Token is a token of a service account, which an issuer gives. It is not signed: this sigstore believes it.
func Token(t testing.TB, issuer, subject string) string {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": subject, "aud": []string{"sigstore"}, "exp": time.Now().Add(10 * time.Minute).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part(claims) + "." + part([]byte("signature"))
}

// Identity is what a certificate calls a service account, given by its token's subject, as Fulcio does.
func Identity(subject string) string {
	parts := strings.Split(subject, ":")
	return "https://kubernetes.io/namespaces/" + parts[2] + "/serviceaccounts/" + parts[3]
}

// certify gives a certificate to who has a token and shows that the key is theirs.
func (s *Sigstore) certify(t testing.TB, w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Credentials struct {
			OIDCIdentityToken string `json:"oidcIdentityToken"`
		} `json:"credentials"`
		PublicKeyRequest struct {
			PublicKey struct {
				Algorithm, Content string
			} `json:"publicKey"`
			ProofOfPossession []byte `json:"proofOfPossession"`
		} `json:"publicKeyRequest"`
		CertificateSigningRequest []byte `json:"certificateSigningRequest"`
	}
	refuse := func(status int, format string, args ...any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"code": 16, "message": fmt.Sprintf(format, args...)})
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		refuse(http.StatusBadRequest, "%v", err)
		return
	}
	var claims struct {
		Issuer   string   `json:"iss"`
		Subject  string   `json:"sub"`
		Audience []string `json:"aud"`
	}
	token := cmp.Or(asked.Credentials.OIDCIdentityToken, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		refuse(http.StatusUnauthorized, "There was an error processing the identity token")
		return
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &claims) != nil || strings.Count(claims.Subject, ":") != 3 ||
		len(claims.Audience) != 1 || claims.Audience[0] != "sigstore" {
		refuse(http.StatusUnauthorized, "There was an error processing the identity token")
		return
	}
	public, err := owned(asked.CertificateSigningRequest, []byte(asked.PublicKeyRequest.PublicKey.Content),
		asked.PublicKeyRequest.ProofOfPossession, claims.Subject)
	if err != nil {
		refuse(http.StatusBadRequest, "%v", err)
		return
	}
	encode := func(c *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	leaf := s.Certificate(t, public, Identity(claims.Subject), claims.Issuer)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"signedCertificateDetachedSct": map[string]any{
		"chain": map[string]any{"certificates": []string{encode(leaf), encode(s.authority.certificate)}},
	}})
}

// owned is the public key of a request, which shows that it is the asker's: by a certificate signing request, or by a
// signature of the token's subject.
func owned(request, key, proof []byte, subject string) (crypto.PublicKey, error) {
	if block, _ := pem.Decode(request); block != nil {
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil || parsed.CheckSignature() != nil {
			return nil, errors.New("the certificate signing request could not be parsed")
		}
		return parsed.PublicKey, nil
	}
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("the public key supplied in the request could not be parsed")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	ec, isEC := public.(*ecdsa.PublicKey)
	sum := sha256.Sum256([]byte(subject))
	if err != nil || !isEC || !ecdsa.VerifyASN1(ec, sum[:], proof) {
		return nil, errors.New("the signature supplied in the request could not be verified")
	}
	return public, nil
}
