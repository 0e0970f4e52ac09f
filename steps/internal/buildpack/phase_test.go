package buildpack

import (
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A journal keeps what was written since the last folder was made.
func TestJournal(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name         string
		steps        []string // a folder to make, "/" and its name, or a text to write
		ran, written string
	}{
		{"nothing", nil, "", ""},
		{"no buildpack", []string{"a\n", "b\n"}, "", "a\nb\n"},
		{"one", []string{"before\n", "/one-1", "a\n", "b\n"}, "one-1", "a\nb\n"},
		{"two", []string{"/one-1", "a\n", "/two-2", "b\n"}, "two-2", "b\n"},
		{"two that run after each other in no time", []string{"a\n", "/one-1", "/two-2", "b\n"}, "two-2", "b\n"},
		{"one that says nothing", []string{"/one-1", "a\n", "/two-2"}, "two-2", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			ran, err := watch(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range test.steps {
				if step[0] == '/' {
					err = os.Mkdir(filepath.Join(dir, step), 0o755)
				} else {
					_, err = io.WriteString(ran, step)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if name, written := ran.end(); name != test.ran || written != test.written {
				t.Errorf("%q wrote %q, want %q, %q", name, written, test.ran, test.written)
			}
			if _, err := io.WriteString(ran, "later\n"); err != nil {
				t.Error(err)
			}
		})
	}
	var none *journal
	if n, err := io.WriteString(none, "a"); n != 1 || err != nil {
		t.Error(n, err)
	}
}
