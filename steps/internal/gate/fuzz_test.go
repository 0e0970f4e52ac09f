package gate

import (
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
)

// FuzzIgnored: a file is read as a whole or refused with its lines, and what is ignored stands in it.
func FuzzIgnored(f *testing.F) {
	for _, seed := range []string{
		"CVE-2024-1 # why\nGHSA-aaaa-bbbb-cccc exp:2026-01-31\n", "\ufeffCVE-1 exp:2026-13-01\n", "a b c\r\n#\n",
		fuzztest.Long("a b\n"), fuzztest.Long("CVE-2024-1 exp:2026-01-31\n"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.Small.Bound(t, len(text), func() {
			all, err := parseIgnored("ignored", text)
			if err != nil {
				failure := outcome.Of(err)
				if failure.Reason != outcome.InvalidParameters || len(failure.Message) > 8<<10 {
					t.Errorf("%s: %d bytes", failure.Reason, len(failure.Message))
				}
				return
			}
			for id := range all {
				if !strings.Contains(strings.ToLower(text), id) {
					t.Errorf("%q is ignored", id)
				}
			}
		})
	})
}
