package signature

import (
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

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
