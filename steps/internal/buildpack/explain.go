package buildpack

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/disk"
	"github.com/stepwright/stepwright/steps/internal/transcript"
)

// Exit codes of the lifecycle (CNB platform specification).
const (
	noneDetected          = 20
	noneDetectedSomeBroke = 21
	incompatibleBuildpack = 12
	buildpackFailed       = 51
	extensionFailed       = 91
)

// explain gives the failure of a phase its reason, by its exit code; its words are only for the message. The name in
// the journal belongs to the buildpack that ran last, if one did.
func (j *job) explain(err error, ran string) error {
	failed, ok := errors.AsType[*phaseError](err)
	if !ok {
		return err
	}
	output := failed.output
	full, isFull := disk.Full(j.in.Workspace.Image(), j.in.Workspace.Cache(), layersDir, appDir, os.TempDir())
	switch {
	case isFull:
		return outcome.Errorf(
			outcome.OutOfSpace, "the disk is full: of %s, %s: %w:\n%s", full.Path, full, failed,
			transcript.LastLines(output, 5),
		).WithHint("Give the volume of " + full.Path + " more space.")
	case failed.code == -1:
		return outcome.Errorf(
			outcome.BuildFailed, "%s was killed: %w, most likely for want of memory:\n%s",
			j.failing(ran, failed.phase), failed.cause, transcript.LastLines(output, 20),
		).
			WithHint("Give the build's container more memory, or let the build use less.")
	}
	switch failed.code {
	case noneDetected, noneDetectedSomeBroke:
		return outcome.Errorf(
			outcome.NoBuildpackDetected, "no buildpack of the builder recognises %s:\n%s", j.in.AppPath,
			detections(output),
		)
	case incompatiblePlatformAPI, incompatibleBuildpack:
		return unsupported(j.builder.image, "%w: %s", failed, transcript.LastLines(output, 3))
	case buildpackFailed, extensionFailed:
		return outcome.Errorf(
			outcome.BuildFailed, "%s failed:\n%s", j.failing(ran, failed.phase),
			transcript.LastLines(withoutVerdict(output), 25),
		).
			WithHint("The buildpack's own last lines say why; the whole output is in the log.")
	}
	return outcome.Errorf(outcome.Failed, "%w:\n%s", failed, transcript.LastLines(output, 10))
}

// failing names the buildpack that ran last, as the lifecycle names its folder: the ID with slashes replaced, and a
// number.
func (j *job) failing(ran, phase string) string {
	if group, err := readGroup(layersDir); err == nil {
		for _, g := range group.Group {
			if number, ok := strings.CutPrefix(ran, strings.ReplaceAll(g.ID, "/", "_")+"-"); ok &&
				!strings.ContainsFunc(number, func(r rune) bool {
					return r < '0' || r > '9'
				}) {
				return fmt.Sprintf("buildpack %s %s", quote.Line(g.ID, 200), quote.Line(g.Version, 100))
			}
		}
	}
	if phase == "builder" {
		return "a buildpack"
	}
	return "the lifecycle's " + phase
}

// withoutVerdict drops the lifecycle's last line, which only says that the build failed.
func withoutVerdict(output string) string {
	kept := strings.Split(strings.TrimSpace(output), "\n")
	if last := len(kept) - 1; last > 0 && strings.HasPrefix(kept[last], "ERROR: failed to build: ") {
		kept = kept[:last]
	}
	return strings.Join(kept, "\n")
}

var (
	heading = regexp.MustCompile(`^======== (Output|Error): (\S+) ========$`)
	verdict = regexp.MustCompile(`^(fail|skip|pass|err): +(\S+@\S+)(?: \((\d+)\))?(.*)$`)
)

// detections tells what each buildpack said when it looked at the source, from the detector's log. Those without words
// come last, in one line.
func detections(log string) string {
	var order []string
	words, verdicts := map[string][]string{}, map[string]string{}
	note := func(id string) {
		if !slices.Contains(order, id) {
			order = append(order, id)
		}
	}
	var speaker string
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if m := heading.FindStringSubmatch(line); m != nil {
			speaker = m[2]
			note(speaker)
			continue
		}
		if m := verdict.FindStringSubmatch(line); m != nil {
			speaker = ""
			note(m[2])
			switch {
			case m[4] != "": // requires, or provides what nobody wants
				words[m[2]] = appendOnce(words[m[2]], strings.TrimSpace(m[4]))
			case m[1] == "err":
				verdicts[m[2]] = "broke"
			case m[1] == "pass":
				verdicts[m[2]] = "recognises it, but not the buildpacks it goes with"
			}
			continue
		}
		if strings.HasPrefix(line, "======== ") {
			speaker = ""
		}
		if speaker != "" && line != "" {
			words[speaker] = appendOnce(words[speaker], line)
		}
	}
	var lines, silent []string
	for _, id := range order {
		said := words[id]
		if v := verdicts[id]; v != "" {
			said = append([]string{v}, said...)
		}
		if len(said) == 0 {
			silent = append(silent, id)
			continue
		}
		lines = append(lines, "  "+id+": "+outcome.Clip(strings.Join(said, "; "), 300))
	}
	if len(silent) > 0 {
		lines = append(lines, "  without a word: "+strings.Join(silent, ", "))
	}
	if len(lines) == 0 {
		return transcript.LastLines(log, 10)
	}
	return strings.Join(lines, "\n")
}

func appendOnce(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
