package gate

import (
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

var today = time.Date(2026, 3, 10, 23, 59, 59, 0, time.UTC)

func TestIgnored(t *testing.T) {
	t.Parallel()
	const file = "\ufeff# of this service\r\n" +
		"\r\n" +
		"CVE-2024-0001\r\n" +
		"cve-2024-0002 exp:2026-03-10 # until today\r\n" +
		"CVE-2024-0003   exp:2026-03-09\r\n" +
		"GHSA-aaaa-bbbb-cccc #why\r\n" +
		"CVE-2024-0005-openssl\r\n" +
		"DLA-2024-1\r\n" +
		"licence:GPL-3.0"
	all, err := parseIgnored(".scan-ignore", file)
	if err != nil {
		t.Fatal(err)
	}
	for rule, want := range map[string]string{
		"CVE-2024-0001":                "ignored",
		"CVE-2024-0001-openssl":        "ignored",
		"CVE-2024-00011":               "",
		"CVE-2024-00011-openssl":       "",
		"CVE-2024-000":                 "",
		"CVE-2024-0002-zlib":           "ignored",
		"CVE-2024-0003":                "expired",
		"CVE-2024-0003-zlib":           "expired",
		"CVE-2024-0004":                "",
		"GHSA-aaaa-bbbb-cccc-left-pad": "ignored",
		"GHSA-aaaa-bbbb-cccd":          "",
		"CVE-2024-0005-openssl":        "ignored",
		"CVE-2024-0005-libssl":         "",
		"DLA-2024-1-curl":              "ignored",
		"DLA-2024-12":                  "",
		"licence:GPL-3.0":              "ignored",
		"licence:GPL-3.0-only":         "",
		"":                             "",
	} {
		ignores, expired := all.has(finding{rule: rule}, today)
		got := map[[2]bool]string{{true, false}: "ignored", {false, true}: "expired"}[[2]bool{ignores, expired}]
		if got != want {
			t.Errorf("%q is %q, want %q", rule, got, want)
		}
	}
	if ignores, _ := all.has(finding{rule: "CVE-2024-0002"}, today.Add(time.Second)); ignores {
		t.Error("what is ignored until a day is ignored on the next one")
	}
	if ignores, _ := ignored(nil).has(finding{rule: "CVE-2024-0002"}, today); ignores {
		t.Error("something is ignored without a file")
	}
}

// A line that is misread would let something through, or would not.
func TestIgnoredOfAnotherForm(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"a reason without a #": {"CVE-2024-0001 not reachable", []string{"line 1", `"not"`}},
		"no day":               {"\nCVE-2024-0001 exp:soon", []string{"line 2", `"exp:soon" is no day`}},
		"a day that is none":   {"CVE-2024-0001 exp:2026-02-30", []string{`"exp:2026-02-30" is no day`}},
		"two IDs":              {"CVE-2024-0001 CVE-2024-0002", []string{`"CVE-2024-0002"`}},
		"several":              {"A b\nC d\n", []string{"line 1", "line 2"}},
		"an ignore file of grype": {
			"ignore:\n  - vulnerability: CVE-2024-0001\n", []string{"line 2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parseIgnored(".scan-ignore", test.text)
			failure := outcome.Of(err)
			if failure == nil || failure.Reason != outcome.InvalidParameters {
				t.Fatalf("got %v", err)
			}
			for _, want := range append(test.want, ".scan-ignore: ") {
				if !strings.Contains(failure.Message, want) {
					t.Errorf("%q lacks %q", failure.Message, want)
				}
			}
		})
	}
}
