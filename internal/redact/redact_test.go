package redact

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/quote"
)

const key = "-----BEGIN KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQyNTUxOQAAACDxq0\n-----END KEY-----\n"

func TestString(t *testing.T) {
	var s Secrets
	s.Add("hunter22", "hunter22-and-more", "p@ss word/1", key, "abc", "", "-----dashes-----", "--x9", "a\"b\\c\x1bd&e")
	s.Add("abcdefgh", "efghijkl")
	tests := []struct{ name, text, want string }{
		{"as it is", "password hunter22.", "password ***."},
		{"the longer one first", "hunter22-and-more", "***"},
		{"in a URL's query", "x?p=p%40ss+word%2F1", "x?p=***"},
		{"in a URL's path", "x/p@ss%20word%2F1", "x/***"},
		{"in basic auth", "Basic " + base64.StdEncoding.EncodeToString([]byte("hunter22")), "Basic ***"},
		{"one line of a key", "got b3BlbnNzaC1rZXktdjEAAAAA", "got ***"},
		{"a key's armour is no secret", "-----BEGIN KEY-----", "-----BEGIN KEY-----"},
		{"a key's armour in lines", "x\n-----END KEY-----\n", "x\n-----END KEY-----\n"},
		{"a whole key", "[" + key + "]", "[***\n]"},
		{"begins with dashes", "-----dashes----- and --x9", "*** and ***"},
		{"as Go quotes it", fmt.Sprintf("%q", "a\"b\\c\x1bd&e"), `"***"`},
		{"as JSON", `{"x":"a\"b\\c\u001bd\u0026e"} a\"b\\c\u001bd&e`, `{"x":"***"} ***`},
		{"as the filter quotes it", quote.Line("a\"b\\c\x1bd&e", 0), "***"},
		{"in basic auth of a user", base64.StdEncoding.EncodeToString([]byte("me:hunter22-and-more!")), "bWU6***Uh"},
		{"in base64 of a URL", base64.RawURLEncoding.EncodeToString([]byte("??hunter22-and-more")), "Pz9***Q"},
		{"two that overlap", "xabcdefghijklx", "x***x"},
		{"two that touch", "xhunter22hunter22x", "x***x"},
		{"a part only", "hunter2 abcdefg", "hunter2 abcdefg"},
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
	if out.String() != "a *** b\nc " {
		t.Errorf("before Close: %q", out.String())
	}
	w.Close()
	if out.String() != "a *** b\nc ***" {
		t.Errorf("got %q", out.String())
	}
}

// A secret that is read in the middle of an output is masked from there on, also where it has begun already.
func TestWriterLearns(t *testing.T) {
	var s Secrets
	s.Add("hunter22")
	var out bytes.Buffer
	w := s.Writer(&out)
	for _, piece := range []string{"hunter22 hunt", "er", "22-and-more hunt"} {
		w.Write([]byte(piece))
		s.Add("hunter22-and-more")
	}
	w.Close()
	if out.String() != "*** *** hunt" {
		t.Errorf("got %q", out.String())
	}
}

// naive masks a text by looking for each value at each byte.
func naive(text string, values ...string) string {
	hidden := make([]bool, len(text))
	for _, v := range values {
		for i := range len(text) {
			if strings.HasPrefix(text[i:], v) {
				for j := range len(v) {
					hidden[i+j] = true
				}
			}
		}
	}
	var b strings.Builder
	for i, h := range hidden {
		switch {
		case !h:
			b.WriteByte(text[i])
		case i == 0 || !hidden[i-1]:
			b.WriteString(mask)
		}
	}
	return b.String()
}

// However a text is divided, it is masked as a whole is.
func FuzzWriter(f *testing.F) {
	f.Add("aabaaab", "aaaa", "abaa", "xaabaaabaaaax", uint64(1))
	f.Add("hunter22", "ter2-x9", "22ter", "hunter22ter2-x9hunter2ter2-", uint64(2))
	f.Add("-----a\nb-----", "\"\\\"\\", "::x::", "-----a\nb-----::x::\\\"\\\"\\\\", uint64(3))
	f.Fuzz(func(t *testing.T, a, b, c, text string, seed uint64) {
		if len(a)+len(b)+len(c)+len(text) > 10_000 {
			t.Skip()
		}
		var s Secrets
		s.Add(a, b, c)
		var all []string
		for _, v := range []string{a, b, c} {
			for _, form := range forms(strings.TrimSpace(v)) {
				if len(form) >= shortest {
					all = append(all, form)
				}
			}
		}
		want := naive(text, all...)
		var got string
		fuzztest.Of(4, 4).Bound(t, len(a)+len(b)+len(c)+len(text), func() { got = s.String(text) })
		if got != want {
			t.Fatalf("%q becomes %q, want %q", text, got, want)
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var out bytes.Buffer
		w := s.Writer(&out)
		for rest := text; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 9))
			w.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		w.Close()
		if out.String() != want {
			t.Errorf("in pieces %q becomes %q, want %q", text, out.String(), want)
		}
	})
}

// Output without the end of a line costs as much as any other: ten times the bytes, about ten times the time.
func TestLinear(t *testing.T) {
	piece := bytes.Repeat([]byte("hunter2"), 1<<10)
	var s Secrets
	s.Add("hunter22-and-more", key)
	cost := func(size int) time.Duration {
		counted := &count{}
		started := time.Now()
		w := s.Writer(counted)
		for n := 0; n < size; n += len(piece) {
			w.Write(piece)
		}
		w.Close()
		if counted.bytes < size || counted.longest > 2*most {
			t.Errorf("%d of %d bytes, %d at once", counted.bytes, size, counted.longest)
		}
		return time.Since(started)
	}
	if small, large := cost(1<<20), cost(10<<20); large > 40*small+time.Second {
		t.Errorf("1 MiB took %s, 10 MiB %s", small, large)
	}
}

type count struct{ bytes, longest int }

func (c *count) Write(p []byte) (int, error) {
	c.bytes, c.longest = c.bytes+len(p), max(c.longest, len(p))
	return len(p), nil
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

// Of a binding only secrets are masked.
func TestNamed(t *testing.T) {
	for _, test := range []struct {
		name, value string
		want        []string
	}{
		{"username", "node", nil},
		{"database", "modules", nil},
		{"Host-Name", "db-1.example.com", nil},
		{"port", "5432", nil},
		{"flavour", "postgresql", nil},
		{"ca.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", nil},
		{"uri", "postgresql://db.example.com/modules?ssl=true", nil},
		{"uri", "postgresql://node:p%40ssword@db/modules", []string{"p@ssword", "p%40ssword"}},
		{"uri", "https://ghp12345@git.example.com/", []string{"ghp12345", "ghp12345"}},
		{"jdbc-url", "jdbc:postgresql://db/modules?user=node&password=a%21b", []string{"a!b", "a%21b"}},
		{"password", "node", []string{"node"}},
		{"api_key", "modules", []string{"modules"}},
		{"webhook-secret", "https://hooks.example.com/T0/B0", []string{"https://hooks.example.com/T0/B0"}},
		{".npmrc", "//r/:_authToken=x", []string{"//r/:_authToken=x"}},
		{"tls.crt", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
			[]string{"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----"}},
		{"flavour", "x9q8w7e6", []string{"x9q8w7e6"}},
		{"flavour", "correct horse", []string{"correct horse"}},
	} {
		got := Named(test.name, test.value)
		if strings.Join(got, "|") != strings.Join(test.want, "|") {
			t.Errorf("%s=%s: got %q, want %q", test.name, test.value, got, test.want)
		}
	}
}
