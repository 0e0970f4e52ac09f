package gate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stepwright/stepwright/internal/quote"
)

// severity is how bad a finding is. The zero value is none, which no threshold counts.
type severity int

const (
	none severity = iota
	low
	medium
	high
	critical
)

// severities are the names of severities, as the parameter severity has them.
var severities = []string{"none", "low", "medium", "high", "critical"}

func (s severity) String() string { return severities[s] }

// severityNamed is the severity of that name; none for any other.
func severityNamed(name string) severity { return severity(max(0, slices.Index(severities, name))) }

// A finding is one result of a report. All texts are strangers', and shown ones are quoted.
type finding struct {
	rule     string // its ID, such as CVE-2024-1234 or, as grype has it, CVE-2024-1234-openssl
	severity severity
	text     string // one line
}

// What is taken of a report.
const (
	reportLimit   = 32 << 20 // bytes
	findingsLimit = 100_000
	ruleLimit     = 200 // bytes of an ID
	textLimit     = 240 // bytes of a finding's text
)

// sarifLog is as much of a SARIF report, version 2.1.0, as counts here.
type sarifLog struct {
	Version string `json:"version"`
	Runs    []struct {
		Tool struct {
			Driver     component   `json:"driver"`
			Extensions []component `json:"extensions"`
		} `json:"tool"`
		Invocations []struct {
			Successful *bool `json:"executionSuccessful"`
		} `json:"invocations"`
		Results *[]result `json:"results"`
	} `json:"runs"`
}

type component struct {
	Rules []rule `json:"rules"`
}

type rule struct {
	ID            string `json:"id"`
	Configuration struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
	Properties struct {
		Severity any `json:"security-severity"`
	} `json:"properties"`
}

type result struct {
	RuleID    string    `json:"ruleId"`
	RuleIndex *int      `json:"ruleIndex"`
	Rule      reference `json:"rule"`
	Kind      string    `json:"kind"`
	Level     string    `json:"level"`
	Baseline  string    `json:"baselineState"`
	Message   struct {
		Text string `json:"text"`
	} `json:"message"`
	Properties struct {
		Severity any `json:"security-severity"`
	} `json:"properties"`
}

type reference struct {
	ID        string `json:"id"`
	Index     *int   `json:"index"`
	Component struct {
		Index *int `json:"index"`
	} `json:"toolComponent"`
}

// readReport reads a SARIF report of a stranger's. Findings that are the same are one; the worst come first. A report
// of a run that did not look, or did not end, is an error: nothing found is not the same as not looked for.
func readReport(raw []byte) ([]finding, error) {
	var log sarifLog
	if err := json.Unmarshal(bytes.TrimPrefix(raw, []byte("\ufeff")), &log); err != nil {
		return nil, fmt.Errorf("it is not SARIF: %w", err)
	}
	if !strings.HasPrefix(log.Version, "2.1") {
		return nil, fmt.Errorf("it is of SARIF version %q, and not of 2.1.0", quote.Line(log.Version, 20))
	}
	if len(log.Runs) == 0 {
		return nil, errors.New("it has no run")
	}
	known := map[finding]bool{}
	for _, run := range log.Runs {
		for _, invocation := range run.Invocations {
			if invocation.Successful != nil && !*invocation.Successful {
				return nil, errors.New("the scanner says in it that its run was not successful")
			}
		}
		if run.Results == nil {
			return nil, errors.New("it has a run without results, as a scanner writes it that did not look")
		}
		components := append([]component{run.Tool.Driver}, run.Tool.Extensions...)
		byID := map[string]*rule{}
		for c := range components {
			for r := range components[c].Rules {
				if id := components[c].Rules[r].ID; byID[id] == nil {
					byID[id] = &components[c].Rules[r]
				}
			}
		}
		for _, r := range *run.Results {
			if !r.fails() {
				continue
			}
			known[r.finding(r.ruleOf(components, byID))] = true
			if len(known) > findingsLimit {
				return nil, fmt.Errorf("it has more than %d findings", findingsLimit)
			}
		}
	}
	all := make([]finding, 0, len(known))
	for f := range known {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b finding) int {
		return cmp.Or(cmp.Compare(b.severity, a.severity), cmp.Compare(a.rule, b.rule), cmp.Compare(a.text, b.text))
	})
	return all, nil
}

// fails tells whether a result is a finding. What the report itself suppresses is one, too: who may ignore what is for
// the platform to say, by ignore-file.
func (r result) fails() bool {
	switch r.Kind {
	case "pass", "notApplicable", "informational":
		return false
	}
	return r.Baseline != "absent"
}

// ruleOf finds a result's rule; nil when the report has none.
func (r result) ruleOf(components []component, byID map[string]*rule) *rule {
	index, of := cmp.Or(r.Rule.Index, r.RuleIndex), 0
	if r.Rule.Component.Index != nil {
		of = *r.Rule.Component.Index + 1 // the driver is the first
	}
	if index != nil && of >= 0 && of < len(components) && *index >= 0 && *index < len(components[of].Rules) {
		// An index beside an ID that is another rule's is not believed.
		if found := &components[of].Rules[*index]; r.id() == "" || r.id() == found.ID {
			return found
		}
	}
	return byID[r.id()]
}

func (r result) id() string { return cmp.Or(r.RuleID, r.Rule.ID) }

// finding is the result in short. Its severity is the property security-severity, a CVSS score, as GitHub's code
// scanning takes it, and where there is none, the level.
func (r result) finding(by *rule) finding {
	f := finding{rule: r.id(), text: oneLine(r.Message.Text)}
	level := r.Level
	scores := []any{r.Properties.Severity}
	if by != nil {
		f.rule = cmp.Or(f.rule, by.ID)
		level = cmp.Or(level, by.Configuration.Level)
		scores = append(scores, by.Properties.Severity)
	}
	f.rule = quote.Line(f.rule, ruleLimit)
	f.severity = ofLevel(level)
	for _, score := range scores {
		if s, ok := ofScore(score); ok {
			f.severity = s
			break
		}
	}
	return f
}

// ofScore is the severity of a CVSS score from 0 to 10, a number or a text.
func ofScore(score any) (severity, bool) {
	var value float64
	switch score := score.(type) {
	case float64:
		value = score
	case string:
		var err error
		if value, err = strconv.ParseFloat(strings.TrimSpace(score), 64); err != nil {
			return none, false
		}
	default:
		return none, false
	}
	switch {
	case !(value >= 0 && value <= 10): // not a number, too
		return none, false
	case value >= 9:
		return critical, true
	case value >= 7:
		return high, true
	case value >= 4:
		return medium, true
	case value > 0:
		return low, true
	}
	return none, true
}

// ofLevel is the severity of a level of SARIF. Without one it is a warning.
func ofLevel(level string) severity {
	switch level {
	case "error":
		return high
	case "note":
		return low
	case "none":
		return none
	}
	return medium
}

// oneLine shows a text of several lines as one.
func oneLine(text string) string {
	if len(text) > 4*textLimit {
		text = text[:4*textLimit]
	}
	var parts []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	return quote.Line(strings.Join(parts, ", "), textLimit)
}
