package gitsource

import (
	"strings"
	"testing"
	"time"
)

// The cases of git's own t3070, as far as attributes can have them.
func TestWildmatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, pattern string
		path, plain   bool // whether it matches as a path, and as one name
	}{
		{"foo", "foo", true, true},
		{"foo", "bar", false, false},
		{"", "", true, true},
		{"foo", "???", true, true},
		{"foo", "??", false, false},
		{"foo", "*", true, true},
		{"foo", "f*", true, true},
		{"foo", "*f", false, false},
		{"foobar", "*ob*a*r*", true, true},
		{"aaaaaaabababab", "*ab", true, true},
		{"foo*", "foo\\*", true, true},
		{"foobar", "foo\\*bar", false, false},
		{"f\\oo", "f\\\\oo", true, true},
		{"ball", "*[al]?", true, true},
		{"ten", "[ten]", false, false},
		{"ten", "**[!te]", true, true},
		{"ten", "t[a-g]n", true, true},
		{"ten", "t[!a-g]n", false, false},
		{"ton", "t[^a-g]n", true, true},
		{"a]b", "a[]]b", true, true},
		{"a-b", "a[]-]b", true, true},
		{"aab", "a[]a-]b", true, true},
		{"]", "]", true, true},
		{"foo/baz/bar", "foo*bar", false, true},
		{"foo/baz/bar", "foo**bar", false, true},
		{"foobazbar", "foo**bar", true, true},
		{"foo/baz/bar", "foo/**/bar", true, true},
		{"foo/baz/bar", "foo/**/**/bar", true, false},
		{"foo/b/a/z/bar", "foo/**/bar", true, true},
		{"foo/bar", "foo/**/bar", true, false},
		{"foo/bar", "foo?bar", false, true},
		{"foo/bar", "foo[/]bar", false, true},
		{"foo", "**/foo", true, false},
		{"XXX/foo", "**/foo", true, true},
		{"bar/baz/foo", "*/foo", false, true},
		{"deep/foo/bar/baz", "**/bar/*", true, true},
		{"deep/foo/bar/baz/", "**/bar/*", false, true},
		{"deep/foo/bar", "**/bar/*", false, false},
		{"foo/bar/baz/x", "*/bar/**", true, true},
		{"deep/foo/bar/baz/x", "*/bar/**", false, true},
		{"acrt", "a[c-c]rt", true, true},
		{"a", "[[:alpha:]]", true, true},
		{"5", "[[:xdigit:]]", true, true},
		{"q", "[[:digit:][:upper:]]", false, false},
		{"]", "[\\]]", true, true},
		{"-", "[a-]", true, true},
		{"x", "[a-", false, false},
		{"foo/bba/arr", "foo/*", false, true},
		{"foo/bba/arr", "foo/**", true, true},
		{"-adobe-courier", "-*-*-*-*", false, false},
		{"abcd/abcdefg/abcdefghijk/abcdefghijklmnop.txt", "**/*a*b*g*n*t", true, true},
		{"foo", "*/*/*", false, false},
		{"foo/bba/arr", "*/*/*", true, true},
		{"foo/bb/aa/rr", "**/**/**", true, true},
		{"aaa/b", "*/\\b", true, true},
	} {
		if got := wildmatch(c.pattern, c.text, true); got != c.path {
			t.Errorf("%q as a path by %q: %v", c.text, c.pattern, got)
		}
		if got := wildmatch(c.pattern, c.text, false); got != c.plain {
			t.Errorf("%q as a name by %q: %v", c.text, c.pattern, got)
		}
	}
}

// A repository may have any pattern, so none may take for ever.
func TestWildmatchIsQuick(t *testing.T) {
	t.Parallel()
	started := time.Now()
	for _, paths := range []bool{false, true} {
		for _, pattern := range []string{
			strings.Repeat("*a", 500) + "b", strings.Repeat("*/a", 300), "**/" + strings.Repeat("*a", 300) + "c",
			strings.Repeat("**/a/", 30) + "b",
		} {
			wildmatch(pattern, strings.Repeat("a", 2000), paths)
			wildmatch(pattern, strings.Repeat("a/", 1000), paths)
		}
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}
