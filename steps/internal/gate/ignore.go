package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// ignoreLimit is how large an ignore file may be, in bytes.
const ignoreLimit = 1 << 20

// ignored are the findings that count for nothing, by the ID of a vulnerability or rule in lower case: the last day on
// which they do; zero is for ever.
type ignored map[string]time.Time

// ignoreFile reads the file of the repository that names what is ignored. There need not be one.
func (in Parameters) ignoreFile() (ignored, error) {
	if in.IgnoreFile == "" {
		return nil, nil
	}
	var raw []byte
	tree, _, err := in.Workspace.Chained(in.SourceDigest, "")
	if err == nil && tree != nil {
		raw, err = tree.ReadFile(in.IgnoreFile, ignoreLimit)
	} else if err == nil {
		raw, err = in.Workspace.ReadFile(in.IgnoreFile, ignoreLimit)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ignore-file: %w", err)
	}
	return parseIgnored(in.IgnoreFile, string(raw))
}

// parseIgnored reads an ignore file, which has the form of Trivy's .trivyignore: an ID in each line, and behind it, if
// it is not for ever, exp: and the last day. What stands behind a # is for people. The error, an InvalidParameters,
// names all lines that are of another form: a line that is misread would let something through.
func parseIgnored(name, text string) (ignored, error) {
	all := ignored{}
	var faults []string
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(strings.TrimPrefix(line, "\ufeff"), "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		until, err := endOf(words[1:])
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: line %d: %v", name, number, err))
			continue
		}
		all[strings.ToLower(words[0])] = until
	}
	if faults != nil {
		return nil, outcome.Invalid(faults[:min(len(faults), 20)]...).WithHint(
			"Each line is the ID of a vulnerability, then exp:YYYY-MM-DD if it is ignored until a day, then # and why.",
		)
	}
	return all, nil
}

// endOf reads what stands behind an ID.
func endOf(words []string) (time.Time, error) {
	if len(words) == 0 {
		return time.Time{}, nil
	}
	day, isEnd := strings.CutPrefix(words[0], "exp:")
	if !isEnd || len(words) > 1 {
		return time.Time{}, fmt.Errorf("%q is neither exp: with a day, nor behind a #", quote.Line(words[0], 40))
	}
	until, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no day", quote.Line(words[0], 40))
	}
	return until, nil
}

// vulnerability finds the ID of a vulnerability at the beginning of a rule's: grype puts the package's name behind it.
var vulnerability = regexp.MustCompile(`(?i)^(cve-\d{4}-\d{4,}|ghsa(-[a-z0-9]{4}){3}|[a-z]+-\d{4}-\d+)(-|$)`)

// has tells whether a finding is ignored at a time, or was until a day before.
func (i ignored) has(f finding, now time.Time) (ignores, expired bool) {
	names := []string{strings.ToLower(f.rule)}
	if found := vulnerability.FindStringSubmatch(f.rule); found != nil {
		names = append(names, strings.ToLower(found[1]))
	}
	for _, name := range names {
		until, there := i[name]
		switch {
		case !there:
		case until.IsZero() || now.Before(until.AddDate(0, 0, 1)):
			return true, false
		default:
			expired = true
		}
	}
	return false, expired
}
