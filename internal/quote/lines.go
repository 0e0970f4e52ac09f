package quote

import (
	"bytes"
	"io"
	"sync"
	"unicode/utf8"
)

// LineLimit is how long a line of a program's output is at most, in bytes. A longer one goes on in the next.
const LineLimit = 64 << 10

// Lines divides what is written into lines, without their ends, and hands each on once it is complete or LineLimit
// bytes long. Close hands on an unfinished one. It takes time in proportion to the bytes and holds at most one line; it
// is safe for concurrent use, and calls of each never overlap.
func Lines(each func(line string) error) io.WriteCloser { return &lines{each: each} }

type lines struct {
	each func(string) error

	mu   sync.Mutex
	rest []byte
	cut  bool // rest goes on a line whose beginning has been handed on
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for left := p; len(left) > 0; {
		room := left[:min(len(left), LineLimit-len(l.rest))]
		end := bytes.IndexByte(room, '\n')
		if end < 0 {
			l.rest = append(l.rest, room...)
			left = left[len(room):]
			if len(l.rest) == LineLimit {
				if err := l.hand(whole(l.rest)); err != nil {
					return len(p) - len(left), err
				}
				l.cut = true
			}
			continue
		}
		l.rest = append(l.rest, room[:end]...)
		left = left[end+1:]
		if len(l.rest) > 0 || !l.cut {
			if err := l.hand(len(l.rest)); err != nil {
				return len(p) - len(left), err
			}
		}
		l.cut = false
	}
	return len(p), nil
}

// hand hands on the first n bytes.
func (l *lines) hand(n int) error {
	line := string(bytes.TrimSuffix(l.rest[:n], []byte{'\r'}))
	l.rest = append(l.rest[:0], l.rest[n:]...)
	return l.each(line)
}

// whole is the length of a text without a rune at its end that has only begun.
func whole(text []byte) int {
	for n := 1; n < utf8.UTFMax; n++ {
		if i := len(text) - n; i > 0 && utf8.RuneStart(text[i]) {
			if !utf8.FullRune(text[i:]) {
				return i
			}
			break
		}
	}
	return len(text)
}

// Close implements io.Closer.
func (l *lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) == 0 {
		return nil
	}
	return l.hand(len(l.rest))
}
