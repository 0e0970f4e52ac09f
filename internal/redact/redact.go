// Package redact keeps secrets out of whatever a step writes for people: logs, messages, results.
package redact

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/stepwright/stepwright/internal/quote"
)

const mask = "***"

// shortest is the length from which a value is masked: masking every "a" would shred the log and tell what the secret
// is.
const shortest = 4

// longestCoded is the length up to which a value is masked in other encodings than base64: no key or password is
// longer, and a file does not stand in a URL.
const longestCoded = 16 << 10

// Secrets is the set of values that must not be written. The zero value is ready; it is safe for concurrent use.
type Secrets struct {
	mu      sync.RWMutex
	machine machine
	version int // counts the changes of machine
}

// Add makes values secret: as they are, line by line, in the encodings in which protocols carry them, and as logs and
// messages quote them.
func (s *Secrets) Add(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		for _, form := range forms(strings.TrimSpace(v)) {
			if len(form) >= shortest {
				s.machine.add(form)
			}
		}
	}
	if s.machine.states != nil {
		s.machine.prepare()
		s.version++
	}
}

// armour is a line around a key, which is no secret.
var armour = regexp.MustCompile(`^-----(BEGIN|END) [A-Z0-9 ]+-----$`)

// forms are the texts that give a value away.
func forms(v string) []string {
	found := append(quoted(v), inBase64(v)...)
	if len(v) <= longestCoded {
		found = append(found, url.QueryEscape(v), url.PathEscape(v))
	}
	if strings.ContainsAny(v, "\r\n") {
		for line := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == '\n' || r == '\r' }) {
			if line = strings.TrimSpace(line); !armour.MatchString(line) {
				found = append(found, quoted(line)...)
			}
		}
	}
	return found
}

// quoted is a value as it is, and as messages, JSON and the filter of strangers' texts show it.
func quoted(v string) []string {
	if len(v) > longestCoded {
		return []string{v}
	}
	inside := func(text string) string { return text[1 : len(text)-1] }
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.Encode(v) // of a string never fails
	escaped, _ := json.Marshal(v)
	return []string{
		v, inside(strconv.Quote(v)), inside(strings.TrimSuffix(b.String(), "\n")), inside(string(escaped)),
		quote.Line(v, 0), quote.Text(v, 0),
	}
}

// shortestInside is the length from which a part of a text in base64 is masked.
const shortestInside = 8

// inBase64 are a value's base64, and what it leaves in the base64 of a text that it is a part of, such as
// user:password.
func inBase64(v string) []string {
	found := []string{base64.StdEncoding.EncodeToString([]byte(v))}
	if len(v) > longestCoded {
		return found
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			code := encoding.EncodeToString(append(make([]byte, before), v...))
			from := (before*8 + 5) / 6      // characters that depend on what comes before
			to := (before + len(v)) * 8 / 6 // those after depend on what follows
			if to-from >= shortestInside {
				found = append(found, code[from:to])
			}
		}
	}
	return found
}

// String masks every secret in a text.
func (s *Secrets) String(text string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.machine.occurs(text) {
		return text
	}
	var k stream
	return string(k.feed(&s.machine, nil, []byte(text), true))
}

// Writer passes on what is written, masked: at once, but for what may be the beginning of a secret. Close passes on the
// rest; it does not close w.
func (s *Secrets) Writer(w io.Writer) io.WriteCloser { return &writer{secrets: s, to: w} }

type writer struct {
	secrets *Secrets
	to      io.Writer

	mu      sync.Mutex
	stream  stream
	version int // of the secrets that stream has seen
	out     []byte
}

// most is how much is masked at once, in bytes: memory is bounded by it and by the longest secret.
const most = 64 << 10

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for left := p; len(left) > 0; {
		piece := left[:min(len(left), most)]
		left = left[len(piece):]
		if err := w.pass(piece, false); err != nil {
			return len(p) - len(left), err
		}
	}
	return len(p), nil
}

func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pass(nil, true)
}

func (w *writer) pass(piece []byte, last bool) error {
	w.secrets.mu.RLock()
	m := &w.secrets.machine
	if m.states == nil { // there are none
		w.out = append(w.out[:0], piece...)
	} else {
		if w.version != w.secrets.version {
			w.version = w.secrets.version
			w.stream.again(m)
		}
		w.out = w.stream.feed(m, w.out[:0], piece, last)
	}
	w.secrets.mu.RUnlock()
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.to.Write(w.out)
	return err
}

// URL returns a URL without its parts that may be secret: user, password, query and fragment. A text that is no URL,
// such as git@host:path, is returned as it is.
func URL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" {
		return raw
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
