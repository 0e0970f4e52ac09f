package outcome

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/regularfile"
)

// Report is what a step leaves about its end: schemas/outcome.schema.json.
type Report struct {
	Step            string            `json:"step"`
	Reason          Reason            `json:"reason"`
	Class           Class             `json:"class"`
	ExitCode        int               `json:"exitCode"`
	Message         string            `json:"message"`
	Hint            string            `json:"hint"`
	StartedAt       time.Time         `json:"startedAt"`
	DurationSeconds float64           `json:"durationSeconds"`
	PeakMemoryBytes int64             `json:"peakMemoryBytes"`
	Results         map[string]string `json:"results"`

	// Files are results that are too large for the report: file name to content. Write leaves them beside it.
	Files map[string][]byte `json:"-"`
}

// Started is the report of a step that has only begun. It is what remains of one that is killed, with its whole pod for
// want of memory, say, and cannot tell how it ended.
func Started(step string, started time.Time) Report {
	r := Report{Step: step, StartedAt: started.UTC(), Results: map[string]string{}}
	return r.FailedBy(Errorf(
		Killed, "the step was killed before it could say how it ended, most likely for want of memory",
	))
}

// NewReport describes the end of a step; failure is nil when it succeeded. Message, hint and results go through mask.
// A result is one line in which neither a terminal nor Argo finds something to obey.
func NewReport(
	step string, started time.Time, failure *Error, results map[string]string, mask func(string) string,
) Report {
	r := Report{Step: step, Reason: Succeeded, StartedAt: started.UTC(), DurationSeconds: time.Since(started).Seconds(),
		PeakMemoryBytes: peakMemory(), Results: map[string]string{}}
	r.Class, r.ExitCode = r.Reason.Class(), r.Reason.ExitCode()
	if failure != nil {
		masked := *failure
		masked.Message, masked.Hint = mask(failure.Message), mask(failure.Hint)
		r = r.FailedBy(&masked)
	}
	for name, value := range results {
		r.Results[name] = templates.Replace(quote.Line(mask(value), 0))
	}
	return r
}

// templates begin what Argo expands in the values of outputs.
var templates = strings.NewReplacer("{{", `{\x7b`)

// messageLimit is how long a message is at most, in bytes.
const messageLimit = 16 << 10

// message makes a text fit for a message: most of it is what strangers say.
func message(text string) string {
	return shorten(quote.Text(shorten(text, messageLimit), 0), messageLimit)
}

// Saying is the report of the same step with a message.
func (r Report) Saying(text string) Report {
	r.Message = message(text)
	return r
}

// FailedBy is the report of the same step with another end: this failure.
func (r Report) FailedBy(failure *Error) Report {
	r.Reason, r.Class, r.ExitCode = failure.Reason, failure.Reason.Class(), failure.Reason.ExitCode()
	r.Message, r.Hint = message(failure.Message), message(cmp.Or(failure.Hint, failure.Reason.Hint()))
	return r
}

// Failed tells whether the step did not succeed.
func (r Report) Failed() bool { return r.Reason != Succeeded }

// Failure is the end of the step as an error; nil when it succeeded.
func (r Report) Failure() *Error {
	if !r.Failed() {
		return nil
	}
	return &Error{Reason: r.Reason, Message: strings.TrimRight(r.Message, ".\n"), Hint: r.Hint}
}

// peakMemory is the largest of this process, by the kernel's high-water mark, and those it started and waited for. For
// itself getrusage is no use: it counts what the parent had when it forked. It is 0 where the system is not Linux.
func peakMemory() int64 {
	var own int64
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		_, after, _ := strings.Cut(string(status), "\nVmHWM:")
		fmt.Sscan(after, &own)
	}
	return max(own, peakOfChildren()) << 10
}

// Line is the report for people: `reason: message. hint`. A step that succeeded seldom has a message.
func (r Report) Line() string {
	if !r.Failed() && r.Message == "" {
		return string(Succeeded)
	}
	line := fmt.Sprintf("%s: %s", r.Reason, strings.TrimRight(r.Message, ".\n"))
	switch {
	case r.Hint == "":
		return line
	case strings.Contains(line, "\n"): // a hint at the end of a list, or of a log, would be overlooked
		return line + "\n" + r.Hint
	}
	return line + ". " + r.Hint
}

// TerminationMessage is what the step's container leaves for Kubernetes, and the step's task for people: the line, cut
// to what Kubernetes keeps. It is empty when the step succeeded and has nothing to say.
func (r Report) TerminationMessage() string {
	if !r.Failed() && r.Message == "" {
		return ""
	}
	return shorten(r.Line(), terminationLimit)
}

// terminationLimit is how much of a termination message Kubernetes keeps, in bytes.
const terminationLimit = 4096

// Write leaves one file per result and outcome.json in dir, and the termination message in the file at terminationPath
// if there is one: Kubernetes makes it. All are written that can be; the errors of the others are joined.
func (r Report) Write(dir, terminationPath string) error {
	errs := []error{r.writeFiles(dir)}
	// Also where it is empty: another may have been written before, or it may not be there to be written at all.
	if err := r.terminate(terminationPath); r.TerminationMessage() != "" {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (r Report) writeFiles(dir string) error {
	to, err := openFolder(dir)
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range r.Results {
		errs = append(errs, to.write(name, []byte(value)))
	}
	for name, content := range r.Files {
		errs = append(errs, to.write(name, content))
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	errs = append(errs, err, to.write(reportFile, append(raw, '\n')), to.close())
	return errors.Join(errs...)
}

// reportFile is the report's file in the folder of results.
const reportFile = "outcome.json"

// resultLimit is how large a file of results is at most, in bytes.
const resultLimit = 1 << 20

// ReadResult reads a file of results. Others may have left anything there: what is no regular file, is a link, or is
// larger than 1 MiB is an error at once (package regularfile).
func ReadResult(path string) ([]byte, error) { return regularfile.Read(path, resultLimit) }

// Read reads the report that a step has left in its folder of results (see ReadResult). A reason that is not in the
// list is an error. The texts of the report are fit to be shown.
func Read(dir string) (Report, error) {
	raw, err := ReadResult(filepath.Join(dir, reportFile))
	if err != nil {
		return Report{}, err
	}
	var r Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return Report{}, fmt.Errorf("%s: %w", reportFile, err)
	}
	if r.Reason == "" {
		return Report{}, fmt.Errorf("%s: it has no reason", reportFile)
	}
	r.Step, r.Class = quote.Line(r.Step, 0), r.Reason.Class()
	r.Message, r.Hint = message(r.Message), message(r.Hint)
	for name, value := range r.Results {
		r.Results[name] = templates.Replace(quote.Line(value, 0))
	}
	return r, nil
}

// terminate writes in place: the file is a mount of its own, which a rename cannot replace. An absent one is not made,
// and no error.
func (r Report) terminate(path string) error {
	err := regularfile.Overwrite(path, r.TerminationMessage())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// shorten cuts a text in its middle to at most limit bytes: the beginning says what failed, the end is where the hint
// is.
func shorten(text string, limit int) string {
	const gap = "\n…\n"
	if len(text) <= limit {
		return text
	}
	half := (limit - len(gap)) / 2
	return strings.ToValidUTF8(text[:half], "") + gap + strings.ToValidUTF8(text[len(text)-half:], "")
}
