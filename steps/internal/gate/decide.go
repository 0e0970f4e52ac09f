package gate

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/regularfile"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// reportFile is the name of a check's report, among its results and among the step's.
const reportFile = "results.sarif"

// Decide says what came of a check, and fails when the image must not be published. It runs no code of strangers, and
// what the check left is believed in one thing only: its exit code, which Check tells after every other process has
// ended.
//
// With a severity there must be a report, and a finding of that severity or above is a VulnerabilitiesFound, whatever
// the exit code is. Otherwise an exit code other than 0 is a CheckFailed. Its result is summary, one line; a copy of
// the report is beside it.
func Decide(_ context.Context, in Parameters, env step.Environment) (step.Results, error) {
	if failure := in.prepared().Read(); failure != nil {
		return nil, failure
	}
	left := in.handover()
	if err := left.Replay(replay.Check, env.Stderr); err != nil {
		env.Log.Warn("The log of the check is not here", "error", err)
	}
	failure := left.Read()
	if failure != nil && failure.Reason != outcome.CheckFailed {
		return nil, failure
	}
	checked, err := in.checked()
	if err != nil {
		return nil, err
	}
	var said []string
	for _, c := range checked {
		if text := summaryIn(c.results); text != "" {
			said = append(said, ofPlatform(c.platform, text))
		}
	}
	results := step.Results{"summary": strings.Join(said, "; ")}
	threshold := severityNamed(in.Severity)
	if threshold == none {
		if failure != nil {
			return results, failure
		}
		if said := results["summary"]; said != "" {
			env.Say(said)
		}
		return results, nil
	}
	var verdicts, above []string
	var reports [][]byte
	for _, c := range checked {
		v, report, err := in.weigh(c, threshold, env)
		switch {
		case err != nil && failure != nil:
			return results, failure // which is why there is no report
		case err != nil:
			return results, err
		}
		reports = append(reports, report)
		verdicts = append(verdicts, ofPlatform(c.platform, v.summary()))
		if len(v.above) > 0 {
			above = append(above, ofPlatform(c.platform, v.failure(threshold)))
		}
	}
	summary := strings.Join(verdicts, "; ")
	results["summary"] = summary
	in.keep(reports, env)
	switch {
	case above != nil:
		return results, outcome.Errorf(outcome.VulnerabilitiesFound, "%s", strings.Join(above, "\n"))
	case failure != nil:
		return results, failure
	}
	env.Say(summary)
	return results, nil
}

// checked is an image that was checked, and where the check's results are.
type checked struct {
	platform string // empty where there is one image
	results  string
}

func (in Parameters) checked() ([]checked, error) {
	platforms, err := in.platforms()
	if err != nil {
		return nil, err
	}
	if platforms == nil {
		return []checked{{results: in.CheckResultsDir}}, nil
	}
	var all []checked
	for i, platform := range platforms {
		all = append(all, checked{platform, in.resultsOf(i)})
	}
	return all, nil
}

// keep leaves the reports, as one, for those who keep it; the result is the summary.
func (in Parameters) keep(reports [][]byte, env step.Environment) {
	raw, err := together(reports)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(in.ResultsDir, reportFile), raw, 0o644)
	}
	if err != nil {
		env.Log.Warn("The report is not kept", "error", err)
	}
}

// weigh reads the report of the check of an image, and says what counts in it.
func (in Parameters) weigh(of checked, threshold severity, env step.Environment) (verdict, []byte, error) {
	raw, err := regularfile.Read(filepath.Join(of.results, reportFile), reportLimit)
	var found []finding
	if err == nil {
		found, err = readReport(raw)
	}
	if err != nil {
		return verdict{}, nil, outcome.Errorf(outcome.CheckFailed, "%w", fmt.Errorf("%s: %w", ofPlatform(
			of.platform, "the check left no report "+reportFile+" that can be read"), err),
		).WithHint("With a severity the check must write SARIF 2.1.0 to " + in.CheckResultsDir + "/" + reportFile + ".")
	}
	ignores, err := in.ignoreFile()
	if err != nil {
		return verdict{}, nil, err
	}
	v := judge(found, threshold, ignores, time.Now())
	for _, f := range v.expired {
		env.Log.Warn("It was ignored, and is not any more: its day is over", "id", f.rule, "severity", f.severity)
	}
	for _, f := range v.ignored {
		env.Log.Info("Ignored", "id", f.rule, "severity", f.severity)
	}
	for i, f := range v.above {
		if i == shownLimit {
			env.Log.Info("More findings are in the report", "findings", len(v.above)-i)
			break
		}
		env.Log.Info("Found", "id", f.rule, "severity", f.severity, "text", f.text)
	}
	return v, raw, nil
}

// shownLimit is how many findings are logged, and messageFindings how many are in a message.
const (
	shownLimit      = 200
	messageFindings = 10
)

// verdict is what counts of a report.
type verdict struct {
	above   []finding // of the threshold or above, and not ignored
	counts  [critical + 1]int
	ignored []finding
	expired []finding // of those above
}

func judge(found []finding, threshold severity, ignores ignored, now time.Time) (v verdict) {
	for _, f := range found {
		is, was := ignores.has(f, now)
		if is {
			v.ignored = append(v.ignored, f)
			continue
		}
		if was {
			v.expired = append(v.expired, f)
		}
		v.counts[f.severity]++
		if f.severity >= threshold {
			v.above = append(v.above, f)
		}
	}
	return v
}

// summary is the verdict in one line.
func (v verdict) summary() string {
	var counts []string
	for s := critical; s >= low; s-- {
		if v.counts[s] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", v.counts[s], s))
		}
	}
	if counts == nil {
		counts = []string{"nothing found"}
	}
	if len(v.ignored) > 0 {
		counts = append(counts, fmt.Sprintf("%d ignored", len(v.ignored)))
	}
	return strings.Join(counts, ", ")
}

// failure tells of findings that count.
func (v verdict) failure(threshold severity) string {
	text := fmt.Sprintf("of severity %s or above: %d (%s)", threshold, len(v.above), v.summary())
	for i, f := range v.above {
		if i == messageFindings {
			text += fmt.Sprintf("\n  … and %d more, which the log and the report tell", len(v.above)-i)
			break
		}
		text += fmt.Sprintf("\n  - %s %s: %s", f.severity, f.rule, f.text)
	}
	return text
}
