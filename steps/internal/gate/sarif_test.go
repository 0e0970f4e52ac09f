package gate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// report is a SARIF report with these rules and results, as JSON.
func report(rules, results string) string {
	return fmt.Sprintf(`{"version":"2.1.0","runs":[{"tool":{"driver":{"name":"x","rules":[%s]}},"results":[%s]}]}`,
		rules, results)
}

// grype 0.9x and Trivy 0.6x write such reports, as far as they count.
func TestReport(t *testing.T) {
	t.Parallel()
	scored := func(id, score string) string {
		return fmt.Sprintf(`{"id":%q,"properties":{"security-severity":%s}}`, id, score)
	}
	of := func(id, more string) string { return fmt.Sprintf(`{"ruleId":%q,"message":{"text":"m"}%s}`, id, more) }
	for name, test := range map[string]struct {
		report string
		want   []string // severity, rule and text
		fault  string
	}{
		"nothing found": {report("", ""), nil, ""},
		"grype": {report(
			scored("CVE-2024-0001-openssl", `"9.8"`)+","+scored("GHSA-aaaa-bbbb-cccc-left-pad", `"4.0"`),
			`{"ruleId":"GHSA-aaaa-bbbb-cccc-left-pad","message":{"text":"A medium vulnerability in an npm package"}},
			{"ruleId":"CVE-2024-0001-openssl","ruleIndex":0,"message":{"text":"A vulnerability in a deb package"}}`,
		), []string{"critical CVE-2024-0001-openssl A vulnerability in a deb package",
			"medium GHSA-aaaa-bbbb-cccc-left-pad A medium vulnerability in an npm package"}, ""},
		"Trivy": {report(
			`{"id":"CVE-2024-0002","defaultConfiguration":{"level":"error"},
			  "properties":{"precision":"very-high","security-severity":"7.5","tags":["vulnerability","HIGH"]}}`,
			`{"ruleId":"CVE-2024-0002","ruleIndex":0,"level":"error",
			  "message":{"text":"Package: zlib\nInstalled Version: 1.2\nFixed Version: 1.3\n"}}`,
		), []string{"high CVE-2024-0002 Package: zlib, Installed Version: 1.2, Fixed Version: 1.3"}, ""},
		"levels": {report(`{"id":"D","defaultConfiguration":{"level":"note"}}`,
			of("A", `,"level":"error"`)+","+of("B", `,"level":"warning"`)+","+of("C", "")+","+of("D", "")+","+
				of("E", `,"level":"none"`)+","+of("F", `,"level":"strange"`),
		), []string{"high A m", "medium B m", "medium C m", "medium F m", "low D m", "none E m"}, ""},
		"bounds of scores": {report(
			scored("A", `"9.0"`)+","+scored("B", `"8.9"`)+","+scored("C", `7`)+","+scored("D", `6.9`)+","+
				scored("E", `"4"`)+","+scored("F", `"3.9"`)+","+scored("G", `"0.1"`)+","+scored("H", `"0.0"`),
			of("A", "")+","+of("B", "")+","+of("C", "")+","+of("D", "")+","+of("E", "")+","+of("F", "")+","+
				of("G", "")+","+of("H", ""),
		), []string{
			"critical A m", "high B m", "high C m", "medium D m", "medium E m", "low F m", "low G m", "none H m",
		}, ""},
		"scores that are none": {report(
			scored("A", `"11"`)+","+scored("B", `"NaN"`)+","+scored("C", `-1`)+","+scored("D", `["9"]`)+","+
				scored("E", `"high"`),
			of("A", `,"level":"error"`)+","+of("B", `,"level":"error"`)+","+of("C", `,"level":"error"`)+","+
				of("D", `,"level":"error"`)+","+of("E", `,"level":"error"`),
		), []string{"high A m", "high B m", "high C m", "high D m", "high E m"}, ""},
		"a rule by its index": {report(scored("A", `"1"`)+","+scored("B", `"9.5"`),
			`{"ruleIndex":1,"message":{"text":"m"}}`), []string{"critical B m"}, ""},
		"an index of another rule": {report(scored("A", `"1"`)+","+scored("B", `"9.5"`),
			of("B", `,"ruleIndex":0`)), []string{"critical B m"}, ""},
		"an index beyond the rules": {report(
			scored("A", `"9.5"`), of("A", `,"ruleIndex":7`)+","+of("A", `,"ruleIndex":-1`),
		), []string{"critical A m"}, ""},
		"a rule of an extension": {`{"version":"2.1.0","runs":[{"tool":{"driver":{},
			"extensions":[{"rules":[{"id":"X","properties":{"security-severity":"9.1"}}]}]},"results":[
			{"rule":{"id":"X","index":0,"toolComponent":{"index":0}},"message":{"text":"m"}}]}]}`,
			[]string{"critical X m"}, ""},
		"a score of the result": {report(scored("A", `"9.5"`), of("A", `,"properties":{"security-severity":"2.0"}`)),
			[]string{"low A m"}, ""},
		"what is no finding": {report("", of("A", `,"kind":"pass"`)+","+of("B", `,"kind":"notApplicable"`)+","+
			of("C", `,"baselineState":"absent"`)+","+of("D", `,"kind":"review"`)), []string{"medium D m"}, ""},
		"what the report suppresses": {report("", of("A", `,"suppressions":[{"kind":"external","status":"accepted"}]`)),
			[]string{"medium A m"}, ""},
		"one place after another": {report("", of("A", "")+","+of("A", "")+","+of("A", `,"locations":[{}]`)),
			[]string{"medium A m"}, ""},
		"several runs": {`{"version":"2.1.0","runs":[{"results":[]},{"results":[` + of("A", "") + `]}]}`,
			[]string{"medium A m"}, ""},
		"a byte order mark": {"\ufeff" + report("", ""), nil, ""},
		"for terminals": {report("", `{"ruleId":"\u001b[2JA","message":{"text":"a\u001b]0;x\u0007\n\n::error::b"}}`),
			[]string{`medium \x1b[2JA a\x1b]0;x\x07, ::error::b`}, ""},
		"nothing":                 {"", nil, "it is not SARIF"},
		"a page":                  {"<html>", nil, "it is not SARIF"},
		"of another form":         {`{"version":2}`, nil, "it is not SARIF"},
		"another version":         {`{"version":"1.0.0","runs":[]}`, nil, `SARIF version "1.0.0"`},
		"no run":                  {`{"version":"2.1.0","runs":[]}`, nil, "it has no run"},
		"a run that did not look": {`{"version":"2.1.0","runs":[{}]}`, nil, "without results"},
		"results that are null":   {`{"version":"2.1.0","runs":[{"results":null}]}`, nil, "without results"},
		"a run that was interrupted": {
			`{"version":"2.1.0","runs":[{"results":[],"invocations":[{"executionSuccessful":false}]}]}`, nil,
			"not successful",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := readReport([]byte(test.report))
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("got %v, want …%s…", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, fmt.Sprintf("%s %s %s", f.severity, f.rule, f.text))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// A report of a stranger's neither stops the step nor fills its message.
func FuzzReport(f *testing.F) {
	for _, seed := range []string{
		report("", ""), report(`{"id":"A","properties":{"security-severity":"9.8"}}`, `{"ruleIndex":0}`),
		`{"version":"2.1.0","runs":[{"tool":{"extensions":[{}]},"results":[{"rule":{"toolComponent":{"index":-9}}}]}]}`,
		`{"version":"2.1.0","runs":[{"results":[{"ruleId":"` + strings.Repeat("A", 5000) + `"}]}]}`, "[", "null",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var found []finding
		var err error
		fuzztest.Of(4, 4).Bound(t, len(raw), func() { found, err = readReport(raw) })
		if err != nil {
			return
		}
		for _, finding := range found {
			text := finding.rule + finding.text
			if len(text) > ruleLimit+textLimit+10 || !utf8.ValidString(text) ||
				strings.ContainsAny(text, "\n\r\x1b\x00") {
				t.Errorf("%q", text)
			}
		}
		v := judge(found, low, nil, today)
		if message := v.failure(low); len(message) > 8<<10 {
			t.Errorf("the message has %d bytes", len(message))
		}
		if _, err := json.Marshal(v.summary()); err != nil {
			t.Error(err)
		}
	})
}
