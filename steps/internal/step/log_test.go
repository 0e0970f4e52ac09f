package step

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/internal/redact"
)

// hostile is what a stranger may print: lines that look like ours, commands of CIs, what terminals obey.
const hostile = "19:02:07 ERROR PushDenied: give me your password\n" +
	`{"level":"ERROR","msg":"forged"}` + "\n::error::x\n  ::set-output name=image::evil\n##vso[task.setvariable]x\n" +
	"section_start:1:x\r\x1b[0Kx\ngood\rbad\n\x1b]8;;http://x\aclick\x1b[2J\x9b31m\u202etxt\u2028y\xff\b\x00\r\n" +
	"\x1b[31mred\nlast can\x1b[0mary-7f3a can"

func logs(t *testing.T, format string, terminal bool, use func(*slog.Logger, io.Writer)) string {
	t.Helper()
	var out bytes.Buffer
	secrets := &redact.Secrets{}
	secrets.Add("canary-7f3a", "two\nlines\x1bof-a-secret")
	log, raw := newLogs(&out, format, secrets, terminal)
	use(log, raw)
	if err := raw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestRawOutputAsText(t *testing.T) {
	t.Parallel()
	got := logs(t, "text", false, func(log *slog.Logger, raw io.Writer) {
		io.WriteString(raw, hostile)
		log.Info("ours")
		io.WriteString(raw, "ary-7f3a")
	})
	want := []string{
		"| 19:02:07 ERROR PushDenied: give me your password",
		`| {"level":"ERROR","msg":"forged"}`,
		`| \x3a:error::x`,
		`|   \x3a:set-output name=image::evil`,
		`| \x23#vso[task.setvariable]x`,
		`| section_start:1:x\r\x1b[0Kx`,
		`| good\rbad`,
		`| \x1b]8;;http://x\x07click\x1b[2J\x9b31m\u202etxt\u2028y\xff\x08\x00`,
		`| red`,
		`HH:MM:SS ours`,
		`| last *** ***`,
		``,
	}
	got = regexp.MustCompile(`(?m)^[0-9:]{8} ours`).ReplaceAllString(got, "HH:MM:SS ours")
	for i, line := range strings.Split(got, "\n") {
		if i >= len(want) || line != want[i] {
			t.Errorf("line %d is %q", i+1, line)
		}
	}
}

func TestRawOutputOnATerminal(t *testing.T) {
	t.Parallel()
	got := logs(t, "text", true, func(_ *slog.Logger, raw io.Writer) {
		io.WriteString(raw, "\x1b[1;31mred\x1b[2J\nnext canary-7f3a\n")
	})
	if want := "| \x1b[1;31mred\\x1b[2J\x1b[0m\n| next ***\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRawOutputAsJSON(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("\x01", quote.LineLimit) + "end\n"
	got := logs(t, "json", true, func(_ *slog.Logger, raw io.Writer) {
		io.WriteString(raw, long+hostile)
	})
	if strings.ContainsAny(got, "\x1b\u202e\u2028\r\x7f") || strings.Contains(got, "##vso[") {
		t.Errorf("it holds what a terminal or a CI obeys: %.300q", got)
	}
	var all []string
	for line := range strings.Lines(got) {
		var event struct {
			Msg    string
			Level  string
			Output bool
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil || !event.Output || event.Level != "INFO" {
			t.Errorf("%.100q: %v", line, err)
		}
		all = append(all, event.Msg)
	}
	if len(all) != 12 || all[0] != strings.Repeat(`\x01`, quote.LineLimit) || all[1] != "end" || all[10] != "red" ||
		all[11] != "last *** can" {
		t.Errorf("got %.200q", all)
	}
}

// A stranger's word inside an event of ours stays inside.
func TestEvents(t *testing.T) {
	t.Parallel()
	say := func(log *slog.Logger, _ io.Writer) {
		log.Error("Failed:\n19:02:07 forged\x1b[2J\n::error::x canary-7f3a", "from", "a\u202eb", "path", "x  y=1",
			"because", errors.New("two\nlines\x1bof-a-secret ##[x]"), "took", 1500*time.Millisecond, "count", 3,
			"empty", "", "list", []string{"\x1b[2J"})
	}
	text := logs(t, "text", false, say)
	_, text, _ = strings.Cut(text, " ")
	want := "ERROR Failed:\n| 19:02:07 forged\\x1b[2J\n| \\x3a:error::x ***  from=\"a\\u202eb\"  path=\"x  y=1\"" +
		"  because=\"*** \\x23#[x]\"  took=1.5s  count=3  empty=\"\"  list=[\\x1b[2J]\n"
	want = strings.ReplaceAll(want, `list=[\x1b[2J]`, `list="[\x1b[2J]"`)
	if text != want {
		t.Errorf("got\n%q, want\n%q", text, want)
	}
	var event map[string]any
	if err := json.Unmarshal([]byte(logs(t, "json", false, say)), &event); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"msg": "Failed:\n19:02:07 forged\\x1b[2J\n\\x3a:error::x ***", "from": `a\u202eb`, "path": "x  y=1",
		"because": `*** \x23#[x]`, "count": "3", "empty": "", "list": `[\x1b[2J]`, "level": "ERROR", "took": "1.5e+09",
	} {
		if got := fmt.Sprint(event[name]); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if long := logs(t, "text", false, func(log *slog.Logger, _ io.Writer) {
		log.Info(strings.Repeat("x", 1<<20), "y", strings.Repeat("y", 1<<20))
	}); len(long) > 3*shownLimit {
		t.Errorf("%d bytes are logged", len(long))
	}
}

// Events and raw output come from several goroutines, and each line stays a line.
func TestLinesDoNotMix(t *testing.T) {
	t.Parallel()
	const each = 300
	for _, format := range []string{"text", "json"} {
		got := logs(t, format, false, func(log *slog.Logger, raw io.Writer) {
			var writers sync.WaitGroup
			writers.Go(func() {
				for range each {
					io.WriteString(raw, "raw ")
					io.WriteString(raw, "line\n")
				}
			})
			writers.Go(func() {
				for range each {
					log.Info("event")
				}
			})
			writers.Wait()
		})
		shape := regexp.MustCompile(
			`^(\| raw line|\d\d:\d\d:\d\d event|\{.*"msg":"(event"|raw line","output":true)\})\n$`,
		)
		lines := 0
		for line := range strings.Lines(got) {
			if lines++; !shape.MatchString(line) {
				t.Errorf("%s: %q", format, line)
			}
		}
		if lines != 2*each {
			t.Errorf("%s: %d lines", format, lines)
		}
	}
}
