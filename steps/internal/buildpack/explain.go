package buildpack

import (
	"cmp"
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
// the journal belongs to the buildpack that ran last, if one did, and said is what was written since that one began.
func (j *job) explain(err error, ran, said string) error {
	failed, ok := errors.AsType[*phaseError](err)
	if !ok {
		return err
	}
	output := failed.output
	full, isFull := disk.Full(j.in.Workspace.Image(), j.in.Workspace.Cache(), layersDir, appDir, os.TempDir())
	if !isFull && failed.scarce != nil {
		full, isFull = *failed.scarce, true
	}
	if ran == "" {
		said = output
	}
	own := cmp.Or(withoutVerdict(said), transcript.LastLines(output, 1))
	switch {
	case isFull:
		return outcome.Errorf(
			outcome.OutOfSpace, "the disk is full: of %s, %s: %w:\n%s", full.Path, full, failed,
			transcript.LastLines(output, 5),
		).WithHint("Give the volume of " + full.Path + " more space.")
	case failed.code == -1:
		return outcome.Errorf(
			outcome.BuildFailed, "%s was killed: %w, most likely for want of memory:\n%s",
			j.failing(ran, failed.phase), failed.cause, transcript.LastLines(own, 20),
		).
			WithHint("Give the build's container more memory, or let the build use less.")
	}
	switch failed.code {
	case noneDetected:
		return outcome.Errorf(
			outcome.NoBuildpackDetected, "the builder's buildpacks cannot build %s:\n%s", j.in.AppPath,
			detections(output),
		)
	case noneDetectedSomeBroke:
		return outcome.Errorf(
			outcome.DetectionFailed, "a buildpack cannot tell whether it builds %s:\n%s", j.in.AppPath,
			detections(output),
		)
	case incompatiblePlatformAPI, incompatibleBuildpack:
		return unsupported(j.builder.image, "%w: %s", failed, transcript.LastLines(output, 3))
	case buildpackFailed, extensionFailed:
		return outcome.Errorf(
			outcome.BuildFailed, "%s failed:\n%s", j.failing(ran, failed.phase),
			transcript.LastLines(own, 25),
		).
			WithHint("The buildpack's own last lines say why; the whole output is in the log.")
	}
	return outcome.Errorf(outcome.Failed, "%w:\n%s", failed, transcript.LastLines(output, 10))
}

// failing names the buildpack that ran last, as the lifecycle names its folder: the ID with slashes replaced, and a
// number.
func (j *job) failing(ran, phase string) string {
	if id, version, found := j.buildpackOf(ran); found {
		return fmt.Sprintf("buildpack %s %s", id, version)
	}
	if phase == "builder" {
		return "a buildpack"
	}
	return "the lifecycle's " + phase
}

// buildpackOf is the buildpack of the group for which the lifecycle has made a folder of that name.
func (j *job) buildpackOf(folder string) (id, version string, found bool) {
	group, err := readGroup(layersDir)
	if err != nil {
		return "", "", false
	}
	for _, g := range group.Group {
		if number, ok := strings.CutPrefix(folder, strings.ReplaceAll(g.ID, "/", "_")+"-"); ok &&
			!strings.ContainsFunc(number, func(r rune) bool {
				return r < '0' || r > '9'
			}) {
			return quote.Line(g.ID, 200), quote.Line(g.Version, 100), true
		}
	}
	return "", "", false
}

// withoutVerdict drops the lifecycle's last line, which only says that the build failed.
func withoutVerdict(output string) string {
	kept := strings.Split(strings.TrimSpace(output), "\n")
	if last := len(kept) - 1; strings.HasPrefix(kept[last], "ERROR: failed to build: ") {
		kept = kept[:last]
	}
	return strings.Join(kept, "\n")
}

var (
	heading    = regexp.MustCompile(`^======== (Output|Error): (\S+) ========$`)
	exitStatus = regexp.MustCompile(`^exit status \d+$`)
	verdict    = regexp.MustCompile(`^(fail|skip|pass|err): +(\S+@\S+)(?: \((\d+)\))?(.*)$`)
)

// saying is what one buildpack said when it looked at the source.
type saying struct {
	id            string // with its version
	broke, passed bool
	words         []string // lines of its output, and what the plan of a group lacks
}

// detections tells what each buildpack said when it looked at the source, from the detector's log. Those that broke
// come first, with the end of what they printed, since the rest may only follow from it. Those without words come last:
// a buildpack that passes may do so for every source, and says nothing about this one.
func detections(log string) string {
	var lines, rest, silent, passed []string
	for _, s := range sayings(log) {
		switch {
		case s.broke:
			lines = append(lines, "  "+s.id+" broke:")
			for line := range strings.Lines(transcript.LastLines(strings.Join(s.words, "\n"), 8)) {
				lines = append(lines, "    "+strings.TrimSuffix(line, "\n"))
			}
		case len(s.words) > 0:
			rest = append(rest, "  "+s.id+": "+outcome.Clip(strings.Join(s.words, "; "), 300))
		case s.passed:
			passed = append(passed, s.id)
		default:
			silent = append(silent, s.id)
		}
	}
	lines = append(lines, rest...)
	if len(silent) > 0 {
		lines = append(lines, "  without a word: "+strings.Join(silent, ", "))
	}
	if len(passed) > 0 {
		lines = append(lines, "  passed, though no whole group of buildpacks did: "+strings.Join(passed, ", "))
	}
	if len(lines) == 0 {
		return transcript.LastLines(log, 10)
	}
	return strings.Join(lines, "\n")
}

// sayings reads the detector's log. Each buildpack runs once, and is listed for each group that it is in.
func sayings(log string) []*saying {
	var all []*saying
	of := func(id string) *saying {
		if i := slices.IndexFunc(all, func(s *saying) bool { return s.id == id }); i >= 0 {
			return all[i]
		}
		all = append(all, &saying{id: id})
		return all[len(all)-1]
	}
	var speaker *saying
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		heading, verdict := heading.FindStringSubmatch(line), verdict.FindStringSubmatch(line)
		switch {
		case heading != nil:
			speaker = of(heading[2])
		case verdict != nil:
			speaker = nil
			s := of(verdict[2])
			s.broke = s.broke || verdict[1] == "err"
			s.passed = s.passed || verdict[1] == "pass"
			if lack := strings.TrimSpace(verdict[4]); lack != "" { // requires, or provides what nobody wants
				s.words = appendOnce(s.words, lack)
			}
		case strings.HasPrefix(line, "======== "):
			speaker = nil
		case speaker != nil && line != "":
			speaker.words = appendOnce(speaker.words, line)
		}
	}
	for _, s := range all {
		// How its program ended says nothing where the program itself said something.
		if said := slices.DeleteFunc(slices.Clone(s.words), exitStatus.MatchString); len(said) > 0 {
			s.words = said
		}
	}
	return all
}

func appendOnce(list []string, text string) []string {
	if slices.Contains(list, text) {
		return list
	}
	return append(list, text)
}
