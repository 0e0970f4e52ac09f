package transcript_test

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stepwright/stepwright/steps/internal/transcript"
)

func TestTail(t *testing.T) {
	t.Parallel()
	const limit = 10
	for name, test := range map[string]struct {
		pieces []string
		want   string
	}{
		"nothing":                     {nil, ""},
		"less than the limit":         {[]string{"abc", "def"}, "abcdef"},
		"as much as the limit":        {[]string{"abcde", "fghij"}, "abcdefghij"},
		"more":                        {[]string{"abcde", "fghij", "k"}, "bcdefghijk"},
		"more than it holds":          {[]string{"abcdefgh", "ijklmnop", "qrstuvwx"}, "opqrstuvwx"},
		"a piece that is large":       {[]string{"abc", "0123456789abcdefghijklmnopqrstuvwxyz"}, "qrstuvwxyz"},
		"a piece as long as the rest": {[]string{"abcdefghij", "0123456789", "ABCDEFGHIJ"}, "ABCDEFGHIJ"},
		"one byte at a time":          {strings.Split(strings.Repeat("0123456789", 7)+"abc", ""), "3456789abc"},
		"the middle of a rune":        {[]string{"é23456789a"}, "23456789a"},
		"what is no text":             {[]string{"a\xffb"}, "a\xffb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tail := transcript.Tail{Limit: limit}
			for _, piece := range test.pieces {
				if n, err := io.WriteString(&tail, piece); n != len(piece) || err != nil {
					t.Fatalf("wrote %d of %d bytes, %v", n, len(piece), err)
				}
			}
			if got := tail.String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Each piece of one line without an end must not cost as much as all that is kept: that would take minutes here.
func TestTailTakesLinearTime(t *testing.T) {
	t.Parallel()
	const bound = 10 * time.Second
	tail := transcript.Tail{Limit: 1 << 20}
	piece := bytes.Repeat([]byte("x"), 16)
	started := time.Now()
	for written := 0; written < 64<<20; written += len(piece) {
		tail.Write(piece)
		if written%(1<<16) == 0 && time.Since(started) > bound {
			t.Fatalf("%d bytes took more than %s", written, bound)
		}
	}
	if got := transcript.LastLines(tail.String(), 20); len(got) > 600 {
		t.Errorf("the line is shown with %d bytes", len(got))
	}
}

func BenchmarkTail(b *testing.B) {
	tail := transcript.Tail{Limit: 256 << 10}
	piece := bytes.Repeat([]byte("x"), 16)
	b.SetBytes(int64(len(piece)))
	for b.Loop() {
		tail.Write(piece)
	}
}

func TestTailOfSeveralWriters(t *testing.T) {
	t.Parallel()
	tail := transcript.Tail{Limit: 100}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 1000 {
				io.WriteString(&tail, "0123456789")
				_ = tail.String()
			}
		})
	}
	writers.Wait()
	if got := tail.String(); got != strings.Repeat("0123456789", 10) {
		t.Errorf("got %q", got)
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		most int
		want string
	}{
		"nothing":                  {"", 3, ""},
		"fewer":                    {"one\ntwo\n", 3, "one\ntwo"},
		"more":                     {"one\ntwo\nthree\nfour", 3, "two\nthree\nfour"},
		"empty ones do not count":  {"one\n\n \ttwo\n\n\nthree\n\n", 2, " \ttwo\nthree"},
		"ends of Windows":          {"one\r\ntwo\r\n", 2, "one\ntwo"},
		"a progress bar":           {"one\n 1%\r50%\r100%\r\nthree", 3, "one\n100%\nthree"},
		"colours":                  {"\x1b[31mfailed\x1b[0m: \x1b[1;32mwhy\x1b[m", 1, "failed: why"},
		"what terminals obey":      {"\x1b[2Ja\x1b]8;;x\a\u202e\xff\tb", 1, `\x1b[2Ja\x1b]8;;x\x07\u202e\xff` + "\tb"},
		"nothing but colours":      {"one\n\x1b[0m\n", 2, "one"},
		"a long line":              {"one\n" + strings.Repeat("x", 600), 2, "one\n" + strings.Repeat("x", 500) + "…"},
		"a long line of long ones": {strings.Repeat("é", 400), 1, strings.Repeat("é", 250) + "…"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := transcript.LastLines(test.text, test.most); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text  string
		limit int
		want  string
	}{
		"shorter":                 {"abc", 4, "abc"},
		"as long":                 {"abcd", 4, "abcd"},
		"longer":                  {"abcde", 4, "…bcde"},
		"in the middle of a rune": {"éabc", 4, "…abc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := transcript.End(test.text, test.limit); got != test.want || !utf8.ValidString(got) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
