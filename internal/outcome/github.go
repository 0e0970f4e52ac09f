package outcome

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"
)

// WriteGitHub appends the report to the files that GitHub Actions names by GITHUB_OUTPUT and GITHUB_STEP_SUMMARY: each
// result and the reason as an output, and the whole for people, as Markdown. An empty name is no file.
func (r Report) WriteGitHub(output, summary string) error {
	return errors.Join(appendTo(output, r.outputs()), appendTo(summary, r.summary()))
}

func appendTo(path, text string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// outputs writes the results in the form for values of several lines. Their end is marked by a word that nobody can
// know, so that no value ends itself and goes on as an output of its own making.
func (r Report) outputs() string {
	var b strings.Builder
	end := "end_" + rand.Text()
	for _, name := range slices.Sorted(maps.Keys(r.Results)) {
		fmt.Fprintf(&b, "%s<<%s\n%s\n%s\n", name, end, r.Results[name], end)
	}
	fmt.Fprintf(&b, "reason<<%s\n%s\n%s\n", end, r.Reason, end)
	return b.String()
}

// summary is Markdown in which nothing but its own frame is markup.
func (r Report) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s: %s\n\n", r.Step, r.Reason)
	if r.Message != "" {
		fence := "```"
		for strings.Contains(r.Message+r.Hint, fence) {
			fence += "`"
		}
		fmt.Fprintf(&b, "%s\n%s\n\n%s\n%s\n\n", fence, strings.TrimRight(r.Message, "\n"), r.Hint, fence)
	}
	if len(r.Results) > 0 {
		b.WriteString("| result | value |\n|---|---|\n")
		for _, name := range slices.Sorted(maps.Keys(r.Results)) {
			fmt.Fprintf(&b, "| %s | <code>%s</code> |\n", name, cell.Replace(r.Results[name]))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// cell writes a text into a cell of a table. References to characters are not looked at for markup, nor for addresses.
var cell = func() *strings.Replacer {
	var pairs []string
	for c := ' ' + 1; c < 0x7f; c++ {
		if !unicode.IsLetter(c) && !unicode.IsDigit(c) && c != '-' && c != '/' {
			pairs = append(pairs, string(c), fmt.Sprintf("&#%d;", c))
		}
	}
	return strings.NewReplacer(pairs...)
}()
