package outcome

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// FailedStep is a step of a run that did not succeed, as Argo tells it to an exit handler.
type FailedStep struct {
	Step    string // its name; empty when nothing is told
	Reason  Reason // by its container's exit code; Failed where there is none
	Message string // in its own words, without Argo's and without the reason; a stranger's text
	Stopped bool   // whether somebody stopped the workflow
}

// exited finds the exit code at the beginning of Argo's message of a failed container. What comes behind it is the
// step's own text.
var exited = regexp.MustCompile(`^(?:main: )?[A-Za-z]+ \(exit code (\d{1,3})\)(?:: )?`)

// Reporter is the template of the step that only tells how a run goes. It fails no run.
const Reporter = "commit-status"

// stopped is Argo's message of a node that it ended, or did not begin, because the workflow was stopped.
var stopped = regexp.MustCompile(`^(?:workflow shutdown|Stopped) with strategy`)

// FirstFailure returns what failed first of a run, of Argo's variable workflow.failures: a list in JSON, in quotes of
// Go's. What commit-status failed at does not count. The error is an InvalidParameters.
func FirstFailure(text string) (FailedStep, error) {
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	var all []struct {
		DisplayName  string `json:"displayName"`
		Message      string `json:"message"`
		TemplateName string `json:"templateName"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return FailedStep{}, Errorf(InvalidParameters, "failures: %w", err).WithHint(
			"Pass Argo's workflow.failures unchanged.",
		)
	}
	first, isStopped := FailedStep{Reason: Failed}, false
	for _, f := range all {
		isStopped = isStopped || stopped.MatchString(f.Message)
		if f.TemplateName == Reporter {
			continue
		}
		found := exited.FindStringSubmatch(f.Message)
		if found == nil && first.Step != "" {
			continue
		}
		first = FailedStep{Step: f.DisplayName, Reason: Failed, Message: f.Message}
		if found == nil {
			continue
		}
		if code, err := strconv.Atoi(found[1]); err == nil && code != 0 {
			if reason, known := OfExitCode(code); known {
				first.Reason = reason
			}
		}
		first.Message = strings.TrimPrefix(f.Message[len(found[0]):], string(first.Reason)+": ")
		break // the others failed because of it
	}
	first.Stopped = isStopped
	return first, nil
}
