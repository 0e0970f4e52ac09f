package outcome_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// FuzzReport: what a step left of itself has a reason of the list, or is an error, and its texts can be shown.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"step":"a\u001b[2J","reason":"BuildFailed","message":"b\r\nc","hint":"d",` +
		`"results":{"image":"{{x}}"}}`))
	f.Add([]byte(`{"reason":"Nonesuch"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "outcome.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		fuzztest.Of(4, 1).Bound(t, len(raw), func() {
			r, err := outcome.Read(dir)
			if err != nil {
				return
			}
			for _, text := range []string{r.Step, r.Message, r.Hint} {
				if quote.Text(text, 0) != text {
					t.Errorf("%q goes into logs", text)
				}
			}
			if n := len(r.TerminationMessage()); n > 4096 {
				t.Errorf("a termination message of %d bytes", n)
			}
		})
	})
}

// FuzzFailures: Argo's list of what failed has messages of steps, which have words of strangers.
func FuzzFailures(f *testing.F) {
	list := `[{"displayName":"checkout-source","message":"main: Error (exit code 64): a","templateName":"a"},` +
		`{"displayName":"b","message":"Stopped with strategy 'Stop'"}]`
	f.Add(list)
	f.Add(strconv.Quote(list))
	f.Fuzz(func(t *testing.T, text string) {
		fuzztest.Small.Bound(t, len(text), func() {
			if first, err := outcome.FirstFailure(text); err == nil && first.Reason.Class() == "" {
				t.Errorf("%q has no class", first.Reason)
			}
		})
	})
}
