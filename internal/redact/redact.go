// Package redact keeps secrets out of whatever a step writes for people: logs, messages, results.
package redact

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
)

const mask = "***"

// shortest is the length from which a value is masked: masking every "a" would shred the log and tell what the secret
// is.
const shortest = 4

// Secrets is the set of values that must not be written. The zero value is ready; it is safe for concurrent use.
type Secrets struct {
	mu     sync.RWMutex
	values []string // longest first, so that a secret is masked before its part
}

// Add makes values secret: as they are, line by line, and in the encodings in which protocols carry them.
func (s *Secrets) Add(values ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		v = strings.TrimSpace(v)
		forms := []string{v, base64.StdEncoding.EncodeToString([]byte(v)), url.QueryEscape(v), url.PathEscape(v)}
		if strings.Contains(v, "\n") {
			for line := range strings.Lines(v) {
				forms = append(forms, strings.TrimSpace(line))
			}
		}
		for _, f := range forms {
			if len(f) >= shortest && !slices.Contains(s.values, f) && !strings.HasPrefix(f, "-----") {
				s.values = append(s.values, f)
			}
		}
	}
	slices.SortStableFunc(s.values, func(a, b string) int { return len(b) - len(a) })
}

// String masks every secret in a text.
func (s *Secrets) String(text string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, v := range s.values {
		text = strings.ReplaceAll(text, v, mask)
	}
	return text
}

// Writer passes on whole lines, masked. Close writes the rest of an unfinished one; it does not close w.
func (s *Secrets) Writer(w io.Writer) io.WriteCloser { return &writer{secrets: s, to: w} }

type writer struct {
	secrets *Secrets
	to      io.Writer

	mu   sync.Mutex
	rest []byte
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest = append(w.rest, p...)
	end := bytes.LastIndexByte(w.rest, '\n') + 1
	if end == 0 {
		return len(p), nil
	}
	_, err := io.WriteString(w.to, w.secrets.String(string(w.rest[:end])))
	w.rest = append(w.rest[:0], w.rest[end:]...)
	return len(p), err
}

func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := io.WriteString(w.to, w.secrets.String(string(w.rest)))
	w.rest = nil
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
