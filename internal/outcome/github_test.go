package outcome

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
)

// parseOutputs reads a file of outputs as GitHub's runner does.
func parseOutputs(t *testing.T, text string) map[string]string {
	t.Helper()
	found := map[string]string{}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		name, end, ok := strings.Cut(lines[i], "<<")
		if !ok {
			t.Fatalf("line %d is %q", i+1, lines[i])
		}
		var value []string
		for i++; lines[i] != end; i++ {
			value = append(value, lines[i])
		}
		found[name] = strings.Join(value, "\n")
	}
	return found
}

func TestWriteGitHub(t *testing.T) {
	dir := t.TempDir()
	output, summary := filepath.Join(dir, "output"), filepath.Join(dir, "summary")
	hostile := "a\nreason<<end\nSucceeded\nend\n::set-output name=x::y"
	r := NewReport("publish-image", time.Now(), Errorf(PushDenied, "the registry says ```\n# no"), map[string]string{
		"image": hostile,
		"tag":   "a|b<script>*` https://x.y {{x",
	}, func(s string) string {
		return s
	})
	for range 2 { // as two steps of one job
		if err := r.WriteGitHub(output, summary); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(output)
	if err != nil {
		t.Fatal(err)
	}
	got := parseOutputs(t, string(raw))
	if len(got) != 3 || got["image"] != quote.Line(hostile, 0) || got["reason"] != "PushDenied" {
		t.Errorf("outputs are %q", got)
	}
	if strings.Count(string(raw), "reason<<end_") != 2 {
		t.Errorf("not appended: %s", raw)
	}
	raw, err = os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for _, want := range []string{
		"### publish-image: PushDenied\n", "\n````\nthe registry says ```\n# no\n", PushDenied.Hint(),
		"| tag | <code>a&#124;b&#60;script&#62;&#42;&#96; https&#58;//x&#46;y &#123;&#92;x7bx</code> |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := r.WriteGitHub("", ""); err != nil {
		t.Error(err)
	}
	if r.WriteGitHub(filepath.Join(dir, "none", "output"), "") == nil {
		t.Error("no error for a file that cannot be written")
	}
}
