package signature

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// FuzzKey: Private keys, also encrypted ones: what is taken for one signs.
func FuzzKey(f *testing.F) {
	block := func(kind, content string) []byte {
		return []byte("-----BEGIN " + kind + "-----\n" + content + "\n-----END " + kind + "-----\n")
	}
	f.Add(block("PRIVATE KEY", "MC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"), []byte(""))
	f.Add(block("ENCRYPTED SIGSTORE PRIVATE KEY", "e30="), []byte("x"))
	f.Fuzz(func(t *testing.T, content, password []byte) {
		fuzztest.Of(64, 4).Bound(t, len(content), func() {
			key, err := parse(content, func() ([]byte, error) { return password, nil })
			if err == nil {
				if _, err := key.sign([]byte("message")); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// FuzzTimestamp: whatever an authority answers, a time is believed of what it was asked about only.
func FuzzTimestamp(f *testing.F) {
	f.Add([]byte("\x30\x05\x30\x03\x02\x01\x02"), []byte("signed"))
	f.Add([]byte("\x30\x80\x30\x03\x02\x01\x00\x30\x00\x00\x00"), []byte(""))
	f.Fuzz(func(t *testing.T, answer, signed []byte) {
		fuzztest.Small.Bound(t, len(answer)+len(signed), func() {
			sum := sha256.Sum256(signed)
			if at, err := readTimestamp(answer, signed); err == nil && !bytes.Contains(answer, sum[:]) {
				t.Errorf("at %v of what is not in it", at)
			}
		})
	})
}

// FuzzLogEntry: whatever a log answers, its proof ends.
func FuzzLogEntry(f *testing.F) {
	f.Add([]byte(`{"a":{"body":"YQ==","integratedTime":1,"logID":"00","logIndex":5,"verification":{"inclusionProof":` +
		`{"checkpoint":"log\n8\nAA==\n","hashes":["00","01"],"logIndex":5,"treeSize":8,"rootHash":"00"},` +
		`"signedEntryTimestamp":"AA=="}}}`))
	f.Add([]byte(`{"a":{"verification":{"inclusionProof":{"logIndex":9223372036854775806,` +
		`"treeSize":9223372036854775807}}}}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		fuzztest.Small.Bound(t, len(answer), func() {
			if entry, err := readEntry(answer); err == nil {
				if root, ok := entry.Proof.root(entry.Body); ok && len(root) != sha256.Size {
					t.Errorf("a root of %d bytes", len(root))
				}
				entry.Proof.check(entry.Body)
			}
		})
	})
}
