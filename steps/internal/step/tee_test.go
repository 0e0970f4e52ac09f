package step

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/redact"
)

// What is logged and what is printed is at both places, masked, an unfinished line, too.
func TestTee(t *testing.T) {
	t.Parallel()
	var first, second bytes.Buffer
	secrets := new(redact.Secrets)
	secrets.Add("hunter22")
	env := Environment{Log: slog.New(slog.NewTextHandler(&first, nil)), Stderr: &first, Secrets: secrets}
	env, flush := env.Tee(&second)
	env.Log.With("a", "b").Info("Building", "with", "hunter22")
	fmt.Fprint(env.Stderr, "compiling hunter22\nno end")
	flush()
	for name, got := range map[string]string{"first": first.String(), "second": second.String()} {
		for _, want := range []string{"Building", "a=b", "compiling", "no end"} {
			if !strings.Contains(got, want) {
				t.Errorf("the %s place lacks %q: %s", name, want, got)
			}
		}
	}
	if strings.Contains(second.String(), "hunter22") {
		t.Errorf("a secret is shown: %s", &second)
	}
}
