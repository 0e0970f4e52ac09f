package main

import (
	"bytes"
	"regexp"
	"strings"
)

// failures reads the output of go test -v and collects the tests that have failed: whole ones, without their subtests.
type failures struct {
	tests []string
	rest  []byte // of a line whose end is still to come
}

// Write reads on.
func (f *failures) Write(output []byte) (int, error) {
	f.rest = append(f.rest, output...)
	for {
		line, rest, whole := bytes.Cut(f.rest, []byte("\n"))
		if !whole {
			return len(output), nil
		}
		f.rest = rest
		if after, ok := strings.CutPrefix(string(line), "--- FAIL: "); ok {
			name, _, _ := strings.Cut(after, " ")
			f.tests = append(f.tests, name)
		}
	}
}

// expression is the one of go test -run for the tests that failed, with the subtests that run names, if it names any.
func (f *failures) expression(run string) string {
	if strings.Contains(run, "/") {
		return run
	}
	names := make([]string, len(f.tests))
	for i, name := range f.tests {
		names[i] = regexp.QuoteMeta(name)
	}
	return "^(" + strings.Join(names, "|") + ")$"
}
