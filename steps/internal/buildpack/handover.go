package buildpack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/regularfile"
	"github.com/stepwright/stepwright/internal/replay"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// handover is the folder in which Build tells Seal how it ended, and leaves what was printed. The user's code can write
// there, too, so that all in it is a stranger's: it decides on the words of a failure, and on nothing else.
type handover string

func (in Parameters) handover() handover { return handover(in.HandoverDir) }

func (h handover) ending() string     { return filepath.Join(string(h), "ending.json") }
func (h handover) transcript() string { return filepath.Join(string(h), "transcript") }

func (h handover) empty() error { return empty(string(h)) }

// ending is how Build ended. The reason is Succeeded when it did not fail.
type ending struct {
	Reason  outcome.Reason `json:"reason"`
	Message string         `json:"message,omitempty"`
	Hint    string         `json:"hint,omitempty"`
}

// What Seal takes of a handover, in bytes.
const (
	endingLimit     = 64 << 10
	messageLimit    = 16 << 10
	hintLimit       = 1 << 10
	transcriptLimit = 8 << 20
)

// write leaves how the build ended; nil means well.
func (h handover) write(failure *outcome.Error, mask func(string) string) error {
	how := ending{Reason: outcome.Succeeded}
	if failure != nil {
		how = ending{
			Reason:  failure.Reason,
			Message: quote.Text(mask(failure.Message), messageLimit),
			Hint:    quote.Text(mask(failure.Hint), hintLimit),
		}
	}
	raw, err := json.Marshal(how)
	if err != nil {
		return err
	}
	return renameio.WriteFile(h.ending(), raw, 0o644)
}

// read returns the failure that Build ended with; nil when it ended well. What cannot be one is a BuildFailed.
func (h handover) read() *outcome.Error {
	raw, err := regularfile.Read(h.ending(), endingLimit)
	var how ending
	if err == nil {
		err = json.Unmarshal(raw, &how)
	}
	switch {
	case err != nil:
		return outcome.Errorf(outcome.BuildFailed, "the build left nothing that tells how it ended: %w", err).
			WithHint("Buildpacks must leave alone what is not theirs.")
	case how.Reason == outcome.Succeeded:
		return nil
	case !mayFail[how.Reason]:
		return outcome.Errorf(
			outcome.BuildFailed, "the build says that it ended with %s, which no build does", how.Reason,
		)
	}
	return outcome.Errorf(how.Reason, "%s", quote.Text(how.Message, messageLimit)).
		WithHint(quote.Text(how.Hint, hintLimit))
}

// record opens the transcript for writing.
func (h handover) record() (*recorder, error) {
	file, err := os.OpenFile(h.transcript(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return &recorder{file: file, end: transcript.Tail{Limit: transcriptLimit / 4}}, nil
}

// recorder keeps the beginning and the end of what is written, so that a build that prints without end fills no disk.
type recorder struct {
	file    *os.File
	written int
	missing int
	end     transcript.Tail
}

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) {
	const beginning = transcriptLimit / 2
	now := p[:min(len(p), max(0, beginning-r.written))]
	r.written += len(now)
	if rest := p[len(now):]; len(rest) > 0 {
		r.missing += len(rest)
		_, _ = r.end.Write(rest) // which never fails
	}
	_, err := r.file.Write(now)
	return len(p), err
}

// Close writes the end. It may be called again.
func (r *recorder) Close() error {
	if r.file == nil {
		return nil
	}
	end := r.end.String()
	var err error
	if missing := r.missing - len(end); missing > 0 {
		_, err = fmt.Fprintf(
			r.file, "\n… %d bytes are left out here: the log of the container build has them …\n", missing,
		)
	}
	_, writing := r.file.WriteString(end)
	err = errors.Join(err, writing, r.file.Close())
	r.file = nil
	return err
}

// replay prints the transcript once more, each line marked.
func (h handover) replay(to io.Writer) error {
	raw, err := regularfile.Read(h.transcript(), transcriptLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("what the build printed cannot be shown: %w", err)
	}
	lines := quote.Lines(func(line string) error {
		_, err := fmt.Fprintln(to, replay.Mark(quote.Line(quote.Uncoloured(line), 0)))
		return err
	})
	_, err = lines.Write(raw)
	return errors.Join(err, lines.Close())
}
