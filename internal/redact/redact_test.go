package redact

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

const key = "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQyNTUxOQAAACDxq0\n-----END KEY-----\n"

func TestString(t *testing.T) {
	var s Secrets
	s.Add("hunter22", "hunter22-and-more", "p@ss word/1", key, "abc", "")
	tests := []struct{ name, text, want string }{
		{"as it is", "password hunter22.", "password ***."},
		{"the longer one first", "hunter22-and-more", "***"},
		{"in a URL's query", "x?p=p%40ss+word%2F1", "x?p=***"},
		{"in a URL's path", "x/p@ss%20word%2F1", "x/***"},
		{"in basic auth", "Basic " + base64.StdEncoding.EncodeToString([]byte("hunter22")), "Basic ***"},
		{"one line of a key", "got b3BlbnNzaC1rZXktdjEAAAAA", "got ***"},
		{"a key's armour is no secret", "-----BEGIN KEY-----", "-----BEGIN KEY-----"},
		{"too short to mask", "abc", "abc"},
		{"nothing secret", "hello", "hello"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := s.String(test.text); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// A secret that arrives in pieces is masked all the same.
func TestWriterMasksAcrossWrites(t *testing.T) {
	var s Secrets
	s.Add("hunter22")
	var out bytes.Buffer
	w := s.Writer(&out)
	for _, piece := range strings.Split("a hun|ter22 b\nc h|unter|22", "|") {
		if n, err := w.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if out.String() != "a *** b\n" {
		t.Errorf("before Close: %q", out.String())
	}
	w.Close()
	if out.String() != "a *** b\nc ***" {
		t.Errorf("got %q", out.String())
	}
}

func TestURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://me:secret@git.example.com/a.git?token=x#y": "https://git.example.com/a.git",
		"https://token@git.example.com/a":                   "https://git.example.com/a",
		"git@git.example.com:a/b.git":                       "git@git.example.com:a/b.git",
		"main":                                              "main",
		"":                                                  "",
	} {
		if got := URL(raw); got != want {
			t.Errorf("%q became %q, want %q", raw, got, want)
		}
	}
}
