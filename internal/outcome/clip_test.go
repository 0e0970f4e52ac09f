package outcome_test

import (
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

func TestClip(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text  string
		limit int
		want  string
	}{
		"shorter":                 {"abc", 4, "abc"},
		"as long":                 {"abcd", 4, "abcd"},
		"longer":                  {"abcde", 4, "abcd…"},
		"in the middle of a rune": {"abcé", 4, "abc…"},
		"nothing":                 {"", 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outcome.Clip(test.text, test.limit); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
