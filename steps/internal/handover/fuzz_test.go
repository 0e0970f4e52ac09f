package handover

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
)

// Strangers' code writes the ending and the transcript. They choose words, and nothing else.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"reason":"BuildFailed","message":"exit 1","hint":"Look."}`), []byte("line\n\x1b[2Jnext"))
	f.Add([]byte(`{"reason":"Unauthorized","message":"\u001b]0;x\u0007"}`), []byte("\xff\xfe"))
	f.Fuzz(func(t *testing.T, ending, printed []byte) {
		folder := Folder{
			Dir: t.TempDir(), Who: "the build", Broken: outcome.BuilderUnavailable,
			MayFail: map[outcome.Reason]bool{outcome.BuildFailed: true},
		}
		for file, content := range map[string][]byte{folder.ending(): ending, folder.transcript(): printed} {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var shown bytes.Buffer
		fuzztest.Of(4, 1).Bound(t, len(ending)+len(printed), func() {
			failure := folder.Read()
			if failure != nil && failure.Reason != outcome.BuildFailed && failure.Reason != outcome.BuilderUnavailable {
				t.Errorf("it chose %s", failure.Reason)
			}
			if err := folder.Replay("build", &shown); err != nil {
				t.Error(err)
			}
		})
		control := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
		if text := shown.String(); !utf8.ValidString(text) || strings.ContainsFunc(text, control) {
			t.Errorf("shown: %q", text)
		}
	})
}
