package dockerfile

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The first build in a state does not wait for the disk, and neither do its RUNs. The second one has the state written
// to the disk, and does. After a crash, which another boot follows, the state of the first is not used.
func TestStateThatIsNew(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	root := filepath.Join(t.TempDir(), "state")
	mark := filepath.Join(root, "layers")
	build := func(line string) (filters int, output string) {
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM busybox:1\nRUN echo ran-first\nRUN cat /proc/self/status > /status # " + line + "\n",
		}), r)
		in.BuildKitRoot = root
		end := run(t, t.Context(), in)
		if end.err != nil {
			t.Fatalf("%v\n%s", end.err, end.output)
		}
		for line := range strings.Lines(open1(t, in.Workspace).files["status"]) {
			if n, ok := strings.CutPrefix(line, "Seccomp_filters:"); ok {
				return must(strconv.Atoi(strings.TrimSpace(n))), end.output
			}
		}
		t.Skip("the kernel does not count filters")
		return 0, ""
	}
	runs := regexp.MustCompile(`(?m)^#\d+ [\d.]+ ran-first$`).MatchString
	first, output := build("one")
	unsynced := string(must(os.ReadFile(mark)))
	if !runs(output) || !strings.Contains(unsynced, unsyncedMark) {
		t.Errorf("the state is %q\n%s", unsynced, output)
	}
	again, output := build("two")
	if again != first-1 || runs(output) {
		t.Errorf("%d filters, and %d in the first build\n%s", again, first, output)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		// a build may end before the disk has all of the state; the next one goes on
		if _, output = build("three"); runs(output) {
			t.Fatalf("the state of this boot is not used\n%s", output)
		}
		if synced := string(must(os.ReadFile(mark))); !strings.Contains(synced, unsyncedMark) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the state stays %q", synced)
		}
	}
	crashed, _, _ := strings.Cut(unsynced, unsyncedMark)
	if err := os.WriteFile(mark, []byte(crashed+unsyncedMark+"another boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if after, output := build("four"); after != first || !runs(output) {
		t.Errorf("%d filters, and %d in the first build\n%s", after, first, output)
	}
}

// unsyncedMark is what a state says that is not on the disk yet.
const unsyncedMark = " unsynced "
