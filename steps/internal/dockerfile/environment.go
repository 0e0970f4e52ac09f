package dockerfile

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/stepwright/stepwright/steps/internal/step"
)

// The Dockerfile frontend has no option for environment variables, so they become an ENV instruction at the start of
// every stage, as podman build --env does: set for each RUN, kept in the image, and overridden by
// the Dockerfile's own ENV. It is written into the copy that the builder gets, where the parser says that a FROM ends.
// The alternatives are worse: the configuration of base images is nothing one could change for FROM scratch, and that
// of the result knows nothing of RUN.
//
// A stage that starts from another has its environment already; set again, it would undo what the other stage's ENV
// changed.

// lineArg is the name of the build argument that carries the i-th variable's value where it has more than one line: no
// quoting takes a line break into an instruction.
func lineArg(i int) string { return fmt.Sprintf("STEPWRIGHT_BUILD_ENV_%d", i) }

// addEnvironment returns the Dockerfile with the environment in it, where its lines are in the original, and the build
// arguments it needs. bases are the bases of its stages.
func addEnvironment(
	original []byte, tree *parser.Result, bases []int, env []step.NameValue,
) ([]byte, lineMap, map[string]string) {
	if len(env) == 0 {
		return original, lineMap{}, nil
	}
	args := map[string]string{}
	var insert strings.Builder
	set := "ENV"
	for i, v := range env {
		if strings.ContainsAny(v.Value, "\r\n") {
			args[lineArg(i)] = v.Value
			fmt.Fprintf(&insert, "ARG %s\n", lineArg(i))
			set += fmt.Sprintf(` %s="${%s}"`, v.Name, lineArg(i))
			continue
		}
		set += fmt.Sprintf(` %s="%s"`, v.Name, escape(v.Value, tree.EscapeToken))
	}
	insert.WriteString(set + "\n")

	var out bytes.Buffer
	lines := lineMap{count: strings.Count(insert.String(), "\n")}
	number, stage := 1, 0
	rest := original
	for _, node := range tree.AST.Children {
		if !strings.EqualFold(node.Value, "from") {
			continue
		}
		inherits := bases[stage] >= 0
		stage++
		if inherits {
			continue
		}
		for ; number <= node.EndLine; number++ {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			out.Write(line)
			out.WriteByte('\n')
			if rest = after; !found {
				rest = nil
			}
		}
		out.WriteString(insert.String())
		lines.after = append(lines.after, node.EndLine)
	}
	out.Write(rest)
	return out.Bytes(), lines, args
}

// escape writes a value so that it means itself between double quotes.
func escape(value string, token rune) string {
	t := string(token)
	return strings.NewReplacer(t, t+t, `"`, t+`"`, `$`, t+`$`).Replace(value)
}

// addScan returns a Dockerfile that has the scanner look at every stage, and the line before which it has one more for
// that: to the frontend, a build argument counts where an ARG declares it. Above the first FROM it leaves no trace in
// the image.
func addScan(text []byte, tree *parser.Result) ([]byte, int) {
	for _, node := range tree.AST.Children {
		if !strings.EqualFold(node.Value, "from") {
			continue
		}
		before := 0
		for range node.StartLine - 1 {
			before += bytes.IndexByte(text[before:], '\n') + 1
		}
		return slices.Concat(text[:before], []byte("ARG "+scanStageArg+"=true\n"), text[before:]), node.StartLine
	}
	return text, 0
}

// lineMap leads from the lines of a text back to those of the original: count lines were put after each of some. The
// zero value is for a text that is the original.
type lineMap struct {
	after []int // lines of the original, in order
	count int
	scan  int // the line of the original before which one was put; 0: none
}

// original is the number of the line in the original; of a line that was put in, that of the one before.
func (m lineMap) original(line int) int {
	if m.scan > 0 && line >= m.scan {
		line = max(m.scan, line-1)
	}
	for _, after := range m.after {
		if line <= after {
			return line
		}
		line = max(after, line-m.count)
	}
	return line
}
