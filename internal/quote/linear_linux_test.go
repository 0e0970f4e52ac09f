package quote_test

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/quote"
)

// Work is in proportion to the text, also where all of it is hostile. It is measured in time of a processor, which does
// not pass while others run.
func TestLinear(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	spent := func() time.Duration {
		var usage unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &usage); err != nil {
			t.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano())
	}
	for name, piece := range map[string]string{
		"escapes": "\x1b[", "commands": "##", "colons": "::", "half colours": "\x1b[1;", "blanks": " ",
		"runes": "\u202e",
	} {
		text := strings.Repeat(piece, 4<<20/len(piece))
		before := spent()
		quote.Line(text, 0)
		quote.Output(text, true)
		quote.Uncoloured(text)
		if took := spent() - before; took > 10*time.Second {
			t.Errorf("%s: 4 MiB took %s", name, took)
		}
	}
}
