//go:build !e2e

package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

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

// TestFailures: what failed is known by the output of go test, however it comes in.
func TestFailures(t *testing.T) {
	const output = `=== RUN   TestA
    a_test.go:1: --- FAIL: TestOfALog (1.00s)
--- FAIL: TestA (84.34s)
    --- FAIL: TestA/part (0.10s)
--- PASS: TestB (1.00s)
--- FAIL: TestC (0.00s)
FAIL
`
	for name, from := range map[string]io.Reader{
		"at once":       strings.NewReader(output),
		"byte for byte": iotest.OneByteReader(strings.NewReader(output)),
	} {
		var f failures
		if _, err := io.Copy(&f, from); err != nil {
			t.Fatal(err)
		}
		if want := []string{"TestA", "TestC"}; !slices.Equal(f.tests, want) {
			t.Errorf("%s: %q, want %q", name, f.tests, want)
		}
		for run, want := range map[string]string{
			"": "^(TestA|TestC)$", "Test": "^(TestA|TestC)$", "TestA/part": "TestA/part",
		} {
			if got := f.expression(run); got != want {
				t.Errorf("%s: -run %q: %q, want %q", name, run, got, want)
			}
		}
	}
}
