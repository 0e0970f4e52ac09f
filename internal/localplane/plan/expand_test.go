package plan

import "testing"

// The cases come from Kubernetes' documentation, and from its own tests.
func TestExpand(t *testing.T) {
	defined := map[string]string{"A": "a", "EMPTY": "", "NESTED": "$(A)"}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "$(A)": "a", "x$(A)y$(A)": "xaya", "$(EMPTY)": "", "$(NESTED)": "$(A)",
		"$(UNKNOWN)": "$(UNKNOWN)",
		"$$(A)":      "$(A)", "$$$(A)": "$a", "$$$$": "$$", "$": "$", "a$": "a$", "$A": "$A", "$(A": "$(A", "$$": "$",
		"$()": "$()", "${A}": "${A}", "$($(A))": "$($(A))",
	} {
		if got := expand(text, defined); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}
