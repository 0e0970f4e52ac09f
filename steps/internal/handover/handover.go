// Package handover is how a container that runs strangers' code tells the main container of its pod how it ended, and
// leaves what was printed.
package handover

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

// Folder is the folder in which one container tells the next. Strangers' code can write there, too, so that all in it
// is a stranger's: it decides on the words of a failure, and on nothing else that Read does not allow.
type Folder struct {
	Dir     string
	Who     string                  // ended, as messages name it: "the build"
	MayFail map[outcome.Reason]bool // the reasons that it may end with; nil: any, where no code of strangers can write
	Broken  outcome.Reason          // of what cannot be an ending
	Hint    string                  // for nothing that tells of an ending
}

func (f Folder) ending() string     { return filepath.Join(f.Dir, "ending.json") }
func (f Folder) transcript() string { return filepath.Join(f.Dir, "transcript") }

// ending is how it ended. The reason is Succeeded when it did not fail.
type ending struct {
	Reason  outcome.Reason `json:"reason"`
	Message string         `json:"message,omitempty"`
	Hint    string         `json:"hint,omitempty"`
}

// What is taken of a handover, in bytes.
const (
	endingLimit     = 64 << 10
	messageLimit    = 16 << 10
	hintLimit       = 1 << 10
	transcriptLimit = 8 << 20
)

// Clear removes a folder's content, for it may be the place of a volume, or makes the folder.
func Clear(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Write leaves how it ended; nil means well. What was there is replaced.
func (f Folder) Write(failure *outcome.Error, mask func(string) string) error {
	how := ending{Reason: outcome.Succeeded}
	if failure != nil {
		how = ending{
			Reason:  failure.Reason,
			Message: quote.Text(mask(failure.Message), messageLimit),
			Hint:    quote.Text(mask(failure.Hint), hintLimit),
		}
	}
	raw, err := json.Marshal(how)
	if err == nil {
		err = os.RemoveAll(f.ending()) // a folder cannot be replaced
	}
	if err != nil {
		return err
	}
	return renameio.WriteFile(f.ending(), raw, 0o644)
}

// Read returns the failure that it ended with; nil when it ended well. What cannot be one has the reason Broken.
func (f Folder) Read() *outcome.Error {
	raw, err := regularfile.Read(f.ending(), endingLimit)
	var how ending
	if err == nil {
		err = json.Unmarshal(raw, &how)
	}
	switch {
	case err != nil:
		return outcome.Errorf(f.Broken, "%s left nothing that tells how it ended: %w", f.Who, err).WithHint(f.Hint)
	case how.Reason == outcome.Succeeded:
		return nil
	case f.MayFail != nil && !f.MayFail[how.Reason]:
		return outcome.Errorf(f.Broken, "%s says that it ended with %s, which cannot be", f.Who, how.Reason)
	}
	return outcome.Errorf(how.Reason, "%s", quote.Text(how.Message, messageLimit)).
		WithHint(quote.Text(how.Hint, hintLimit))
}

// WriteFile leaves a file of that name beside how it ended.
func (f Folder) WriteFile(name string, content []byte) error {
	path := filepath.Join(f.Dir, name)
	if err := os.RemoveAll(path); err != nil { // a folder cannot be replaced
		return err
	}
	return renameio.WriteFile(path, content, 0o644)
}

// ReadFile reads a file of that name and of at most limit bytes, which is as much a stranger's as all that is here. An
// absent one is an fs.ErrNotExist.
func (f Folder) ReadFile(name string, limit int64) ([]byte, error) {
	return regularfile.Read(filepath.Join(f.Dir, name), limit)
}

// Record opens the transcript, which is not there yet, for writing.
func (f Folder) Record() (*Recorder, error) {
	file, err := os.OpenFile(f.transcript(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	return &Recorder{file: file, end: transcript.Tail{Limit: transcriptLimit / 4}}, nil
}

// Recorder keeps the beginning and the end of what is written, so that a program that prints without end fills no disk.
type Recorder struct {
	file    *os.File
	written int
	missing int
	end     transcript.Tail
}

// Write implements io.Writer.
func (r *Recorder) Write(p []byte) (int, error) {
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
func (r *Recorder) Close() error {
	if r.file == nil {
		return nil
	}
	end := r.end.String()
	var err error
	if missing := r.missing - len(end); missing > 0 {
		_, err = fmt.Fprintf(
			r.file, "\n… %d bytes are left out here: the log of that container has them …\n", missing,
		)
	}
	_, writing := r.file.WriteString(end)
	err = errors.Join(err, writing, r.file.Close())
	r.file = nil
	return err
}

// Replay prints the transcript once more, each line marked as one of that container (package replay).
func (f Folder) Replay(container string, to io.Writer) error {
	raw, err := f.read()
	if err != nil {
		return err
	}
	lines := quote.Lines(func(line string) error {
		_, err := fmt.Fprintln(to, replay.Mark(container, quote.Line(quote.Uncoloured(line), 0)))
		return err
	})
	_, err = lines.Write(raw)
	return errors.Join(err, lines.Close())
}

func (f Folder) read() ([]byte, error) {
	raw, err := regularfile.Read(f.transcript(), transcriptLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("what %s printed cannot be shown: %w", f.Who, err)
	}
	return raw, nil
}
