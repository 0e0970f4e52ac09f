package signature

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
)

const (
	account = "system:serviceaccount:workflows-acme:workflow-sa"
	issuer  = "https://kubernetes.default.svc"
)

// identified is a signer with a certificate of a sigstore, and the file of its token.
func identified(t *testing.T, s *sigstoretest.Sigstore) (*Keyless, string) {
	t.Helper()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(sigstoretest.Token(t, issuer, account)), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := NewKeyless(Sigstore{
		Fulcio: s.FulcioURL, PlainHTTP: true, Timestamp: s.TimestampURL, Rekor: s.RekorURL, TokenFile: token,
		Transport: http.DefaultTransport, Secrets: new(redact.Secrets),
	})
	if err == nil {
		err = k.Identify(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return k, token
}

// A certificate signs while it is good for long enough, and then another one does, by the token that there is then.
func TestCertificatesComeToTheirEnd(t *testing.T) {
	t.Parallel()
	k, token := identified(t, sigstoretest.WithLog(t))
	first := k.held.leaf
	statement := []byte(`{"a":1}`)
	sign := func() []byte {
		t.Helper()
		bundle, err := k.Bundle(t.Context(), statement)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	made := sign()
	if sign(); !k.held.leaf.Equal(first) {
		t.Error("a good certificate was not used again")
	}
	const other = "system:serviceaccount:workflows-acme:other"
	k.held.since = time.Now().Add(-9 * time.Minute)
	if sign(); k.held.leaf.Equal(first) {
		t.Error("a certificate was used until its end")
	}
	if !k.Made(made, statement) || k.Made(made, []byte(`{"a":2}`)) {
		t.Error("a bundle is not known again by the next certificate, or one of another statement is")
	}
	if err := os.WriteFile(token, []byte(sigstoretest.Token(t, issuer, other)), 0o600); err != nil {
		t.Fatal(err)
	}
	k.held.since = time.Time{}
	sign()
	if subject, by := k.Identity(); subject != sigstoretest.Identity(other) || by != issuer {
		t.Errorf("it is %s, by %s", subject, by)
	}
	if k.Made(made, statement) {
		t.Error("the bundle of another identity is its own")
	}
}

// Whatever the size of the log, an entry is in it with the hashes beside its way up, and with no others.
func TestInclusion(t *testing.T) {
	t.Parallel()
	s := sigstoretest.WithLog(t)
	k, _ := identified(t, s)
	for i := range 20 {
		statement := fmt.Appendf(nil, `{"a":%d}`, i)
		signed, err := k.held.key.sign(pae(statement))
		if err != nil {
			t.Fatal(err)
		}
		sealed := seal(statement, signed)
		if _, err = k.log(t.Context(), sealed); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		entry, err := k.log(t.Context(), sealed) // which the log has already
		if err != nil {
			t.Fatalf("entry %d again: %v", i, err)
		}
		for j := range entry.Proof.Hashes {
			wrong := entry.Proof
			wrong.Hashes = append([][]byte{}, entry.Proof.Hashes...)
			wrong.Hashes[j] = make([]byte, sha256.Size)
			if wrong.check(entry.Body) == nil {
				t.Errorf("entry %d: hash %d may be any", i, j)
			}
			wrong.Hashes = entry.Proof.Hashes[:j]
			if wrong.check(entry.Body) == nil {
				t.Errorf("entry %d: %d hashes are enough", i, j)
			}
		}
		more := entry.Proof
		more.Hashes = append([][]byte{make([]byte, sha256.Size)}, entry.Proof.Hashes...)
		if more.check(entry.Body) == nil {
			t.Errorf("entry %d: one hash too many", i)
		}
	}
	// Entries in the middle of a log.
	for i := range 20 {
		statement := fmt.Appendf(nil, `{"a":%d}`, i)
		signed, err := k.held.key.sign(pae(statement))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.log(t.Context(), seal(statement, signed)); err != nil {
			t.Errorf("entry %d of 20: %v", i, err)
		}
	}
}

// A timestamp that was changed is refused, or is of the same signature and time still: only its authority's signature,
// which a verifier looks at, was changed then. Nothing in it breaks the reader.
func TestTimestampsThatWereChanged(t *testing.T) {
	t.Parallel()
	s := sigstoretest.New(t)
	signed := []byte("a signature")
	stamp, err := s.Stamp(sigstoretest.Query(t, signed))
	if err != nil {
		t.Fatal(err)
	}
	at, err := readTimestamp(stamp, signed)
	if err != nil || time.Since(at).Abs() > time.Minute {
		t.Fatalf("%v, %v", at, err)
	}
	if _, err := readTimestamp(stamp, []byte("another")); err == nil {
		t.Error("it is of another signature, too")
	}
	sum := sha256.Sum256(signed)
	from := bytes.Index(stamp, sum[:])
	for i := range stamp {
		if _, err := readTimestamp(stamp[:i], signed); err == nil {
			t.Errorf("%d of %d bytes are enough", i, len(stamp))
		}
		changed := bytes.Clone(stamp)
		changed[i] ^= 0xff
		_, err := readTimestamp(changed, signed)
		if err == nil && i >= from && i < from+len(sum) {
			t.Errorf("it is of another hash: byte %d", i)
		}
	}
}
