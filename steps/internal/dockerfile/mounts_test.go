package dockerfile

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mounting is a project with one RUN for each of these lines, before which the file line is copied. The script of each
// has a mount, which is named before a colon.
func mounting(line string, runs ...string) map[string]string {
	text := "FROM busybox:1\nCOPY line /line\n"
	for _, run := range runs {
		mount, script, _ := strings.Cut(run, ": ")
		text += "RUN --mount=type=cache," + mount + " " + script + "\n"
	}
	return map[string]string{"line": line, "Dockerfile": text}
}

// said returns what the build's instructions printed after "said ".
func (c cycle) said() (words []string) {
	for _, found := range regexp.MustCompile(`(?m)^#\d+ [\d.]+ said (.*)$`).FindAllStringSubmatch(c.output, -1) {
		words = append(words, found[1])
	}
	return words
}

func (c cycle) says(t testing.TB, want ...string) {
	t.Helper()
	if got := strings.Join(c.said(), "|"); got != strings.Join(want, "|") {
		t.Errorf("the build said %q, want %q\n%s\n%s", got, strings.Join(want, "|"), c.output, c.published)
	}
}

// noise is a script that writes a file of as many bytes, which cannot be compressed well.
func noise(file string, megabytes int) string {
	return fmt.Sprintf("/bin/busybox dd if=/dev/urandom of=%s bs=1M count=%d 2>/dev/null", file, megabytes)
}

func TestCacheMounts(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	project := func(line string) map[string]string {
		return mounting(line, "target=/m: echo said $(cat /m/state /m/dir/big >/dev/null 2>&1 && cat /m/state); "+
			"if ! test -e /m/state; then mkdir -p /m/dir && "+noise("/m/dir/big", 3)+"; fi; "+
			"echo $(cat /line) > /m/state")
	}
	cold := c.run(t, project("one"))
	cold.says(t, "")
	cold.tells(t, "There are no cache mounts yet")
	if cold.pushed < 3<<20 {
		t.Errorf("pushed %d bytes\n%s\n%s", cold.pushed, cold.output, cold.published)
	}

	unchanged := c.run(t, project("one"))
	unchanged.says(t)
	if unchanged.digest != cold.digest || unchanged.pulled > little || unchanged.pushed > little ||
		unchanged.workspace > little {
		t.Errorf("unchanged: pulled %d bytes, pushed %d, workspace %d\n%s\n%s", unchanged.pulled, unchanged.pushed,
			unchanged.workspace, unchanged.output, unchanged.published)
	}

	second := c.run(t, project("two"))
	second.says(t, "one")
	if second.pulled < 3<<20 || second.pushed > little {
		t.Errorf("one line: pulled %d bytes, pushed %d\n%s\n%s", second.pulled, second.pushed, second.output,
			second.published)
	}
	c.run(t, project("three")).says(t, "two")

	fresh := newComponent(t).run(t, project("two"))
	if fresh.digest != second.digest {
		t.Errorf("the image is %s, of a cold build %s", second.digest, fresh.digest)
	}
	other := c.owner
	c.owner.Component = "other"
	foreign := c.run(t, project("four"))
	foreign.says(t, "")
	foreign.tells(t, "its owner is")
	c.owner = other
	c.change = func(in *Parameters) { in.NoCache = true }
	c.run(t, project("five")).says(t, "")
	c.change = nil
	c.run(t, project("six")).says(t, "five")
	if left, _ := filepath.Glob(filepath.Join(os.TempDir(), "chunk-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
