package commitstatus

import (
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/quote"
)

// FuzzRemote: a repository's URL leads to a path of its host, and no segment leads out of it.
func FuzzRemote(f *testing.F) {
	for _, seed := range []string{
		"https://github.com/acme/shop.git", "git@github.com:acme/shop.git", "ssh://git@ssh.github.com:443/acme/shop",
		"https://git.example.com:8443/a/../b", "host:a/./b", "https://u:p@h/%2e%2e/x",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		fuzztest.Small.Bound(t, len(raw), func() {
			r, err := parseRemote(raw)
			if err == nil && slices.ContainsFunc(r.path, func(s string) bool {
				return s == "" || s == "." || s == ".." || strings.Contains(s, "/")
			}) {
				t.Errorf("%q has the path %q", raw, r.path)
			}
		})
	})
}

// FuzzWords: the words of a host's error are one short line, whatever its answer is.
func FuzzWords(f *testing.F) {
	for _, seed := range []string{
		`{"message":"Validation Failed","errors":[{"message":"a"},{"message":"b"}]}`,
		`{"message":{"base":["a"]}}`, `{"error":{"message":"a\u001b[2J"}}`, `{"error":"insufficient_scope"}`,
		`{"errors":[` + strings.Repeat(`{"message":"a"},`, 8<<10) + `{}]}`, "<html>",
	} {
		f.Add([]byte(seed))
	}
	cost := fuzztest.Small
	cost.PerByte = 128 // a few copies
	f.Fuzz(func(t *testing.T, answer []byte) {
		cost.Bound(t, len(answer), func() {
			if said := words(answer); len(said) > messageLimit+len("…") || quote.Line(said, 0) != said {
				t.Errorf("%q", said)
			}
		})
	})
}
