//go:build !e2e

package main

import "testing"

// TestRuns: what a test needs is made when the test runs, by the expression that go test would have.
func TestRuns(t *testing.T) {
	for _, test := range []struct {
		run  string
		runs bool
	}{
		{"", true},
		{"TestUpgrade", true},
		{"Upgrade", true},
		{"TestTemplates|TestUpgrade", true},
		{"^Test(Templates|Upgrade)$", true},
		{"TestUpgrade/downgrade", true},
		{"TestTemplates/failures|TestUpgrade/downgrade", true},
		{"Test[/U]pgrade", true}, // no expression by its first part
		{"TestTemplates", false},
		{"TestTemplates/TestUpgrade", false},
		{"TestTemplates/from_kubectl|TestBuildpacks/(link-shortener|patient)", false},
		{`TestTemplates\|TestUpgrade`, false},
	} {
		if got := (runner{run: test.run}).runs("TestUpgrade"); got != test.runs {
			t.Errorf("-run %q: %t", test.run, got)
		}
	}
}
