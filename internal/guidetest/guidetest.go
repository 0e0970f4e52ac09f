// Package guidetest reads commands from pages of the guide, for the tests that run them. The comment above a block says
// which test that is; TestEveryBlockIsClaimed in ci/site looks whether the test reads the page.
package guidetest

import (
	"os"
	"strings"
	"testing"
)

// Blocks returns the blocks of code below each comment with this text, without their indentation. A page that has none
// fails the test.
func Blocks(t testing.TB, page, claim string) []string {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := blocksOf(string(raw), claim)
	if len(blocks) == 0 {
		t.Fatalf("%s has no block below the comment %q", page, claim)
	}
	return blocks
}

func blocksOf(page, claim string) (blocks []string) {
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		if strings.TrimSpace(lines[i]) != "<!-- "+claim+" -->" {
			continue
		}
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) == ""; {
			i++
		}
		if i == len(lines) {
			break
		}
		margin := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " "))]
		fenced := strings.HasPrefix(lines[i], margin+"```")
		if fenced {
			i++
		}
		var block []string
		for ; i < len(lines); i++ {
			line, inside := strings.CutPrefix(lines[i], margin)
			if fenced && line == "```" || !inside && strings.TrimSpace(line) != "" {
				break
			}
			block = append(block, line)
		}
		blocks = append(blocks, strings.TrimRight(strings.Join(block, "\n"), "\n ")+"\n")
	}
	return blocks
}

// Commands are the lines of a block that a shell gets: all of them, or those with a prompt, where there is one.
func Commands(block string) (commands []string) {
	transcript := strings.HasPrefix(block, "$ ")
	for line := range strings.Lines(strings.ReplaceAll(block, "\\\n", " ")) {
		line, prompt := strings.CutPrefix(strings.TrimSpace(line), "$ ")
		if line != "" && !strings.HasPrefix(line, "#") && (prompt || !transcript) {
			commands = append(commands, line)
		}
	}
	return commands
}

// Call is a command of a transcript, and what it prints by it.
type Call struct{ Command, Prints string }

// Transcript are the commands of a block with prompts.
func Transcript(block string) (calls []Call) {
	for part := range strings.SplitSeq("\n"+block, "\n$ ") {
		if command, prints, found := strings.Cut(part, "\n"); found && command != "" {
			calls = append(calls, Call{Command: command, Prints: strings.TrimRight(prints, "\n")})
		}
	}
	return calls
}
