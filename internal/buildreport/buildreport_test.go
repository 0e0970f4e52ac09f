package buildreport

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/schemas"
)

func plain(text string) string { return text }

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

var started = Moment{time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC)}

// large is a report with that many parts and layers, and names of that many bytes.
func large(parts, images, layers, statements, name int, fill string) Report {
	r := Report{Builder: Dockerfile, StartedAt: started, DurationMs: 90_000}
	text := strings.Repeat(fill, name)
	for i := range parts {
		r.Parts = append(r.Parts, Part{
			Name: fmt.Sprint(i, text), Kind: Run, Status: Ran, StartMs: int64(i), DurationMs: int64(1 + i*7%13),
		})
	}
	for range images {
		image := Image{Platform: text, Digest: digest(1)}
		for i := range layers {
			image.Layers = append(image.Layers, Layer{Digest: digest(i), Size: int64(i), CreatedBy: text})
		}
		r.Images = append(r.Images, image)
	}
	for i := range statements {
		r.Attestations = append(r.Attestations, Statement{Type: text, Digest: digest(i)})
	}
	return r
}

// Every report that is written is of the schema, within its bound, and read as it was written.
func TestEncode(t *testing.T) {
	tests := []struct {
		name   string
		report Report
	}{
		{"a failure before anything", Report{Builder: Buildpacks, StartedAt: started}},
		{"ordinary", large(20, 1, 8, 2, 40, "x")},
		{"many parts", large(5_000, 0, 0, 0, 500, "y")},
		{"many layers", large(10, 2, 127, 2, 300, "z")},
		{"more layers than there may be", large(1, 1, 1_000, 0, 3, "z")},
		{"many images and statements", large(300, 60, 130, 100, 300, "a")},
		{"texts that grow", large(300, 60, 130, 100, 300, `"`)},
		{"texts of controls", large(300, 60, 130, 100, 300, "\x1b\u202e\xff")},
		{"numbers beyond all bounds", Report{Builder: Dockerfile, StartedAt: started, DurationMs: -1, Parts: []Part{
			{Name: "a", Kind: Run, Status: Ran, StartMs: -5, DurationMs: 1 << 62, Bytes: 1 << 62, BusyMs: -3},
			{Name: "b", Kind: Run, Status: Ran, StartMs: 1 << 62, DurationMs: 1 << 62, Bytes: -1},
		}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			raw, err := test.report.Encode(plain)
			if err != nil {
				t.Fatal(err)
			}
			if len(raw) > Limit {
				t.Errorf("%d bytes", len(raw))
			}
			var value any
			if err := json.Unmarshal(raw, &value); err != nil {
				t.Fatal(err)
			}
			if faults := schemas.MustLoad(Name).Validate(value); faults != nil {
				t.Error(faults)
			}
			read, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			again, err := read.Encode(plain)
			if err != nil || !bytes.Equal(raw, again) {
				t.Errorf("%v: %s", err, cmp.Diff(string(raw), string(again)))
			}
			if second, _ := test.report.Encode(plain); !bytes.Equal(raw, second) {
				t.Error("it is not always written alike")
			}
		})
	}
}

// Nothing goes missing without a word: parts that are merged and layers that are left out are counted.
func TestWhatDoesNotFit(t *testing.T) {
	r := large(600, 1, 127, 0, 150, "x")
	r.Parts[3].Status, r.Parts[3].DurationMs = Failed, 0
	raw, err := r.Encode(plain)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	var parts int
	failed := false
	for _, p := range got.Parts {
		parts += max(1, p.Count)
		failed = failed || p.Status == Failed
	}
	if parts != 600 || !failed {
		t.Errorf("%d parts, a failed one: %v", parts, failed)
	}
	if layers := len(got.Images[0].Layers) + got.Images[0].Omitted; layers != 127 {
		t.Errorf("%d layers", layers)
	}
}

// Secrets are masked, and neither a terminal nor Argo finds something to obey.
func TestTexts(t *testing.T) {
	secrets := &redact.Secrets{}
	secrets.Add("hunter2-hunter2")
	raw, err := Report{Builder: Dockerfile, StartedAt: started, Parts: []Part{{
		Name: "RUN login hunter2-hunter2 \x1b[2J {{workflow.name}} ]]> </script>", Kind: Run, Status: Ran,
	}}, Images: []Image{{Digest: digest(1), Layers: []Layer{{Digest: digest(2), CreatedBy: "hunter2-hunter2 {{{{"}}}}}.
			Encode(secrets.String)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"hunter2", "\x1b", "{{", "\n"} {
		if bytes.Contains(raw, []byte(bad)) {
			t.Errorf("it has %q: %s", bad, raw)
		}
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if want := `RUN login *** \x1b[2J {{workflow.name}} ]]> </script>`; got.Parts[0].Name != want {
		t.Errorf("got %q, want %q", got.Parts[0].Name, want)
	}
}

func TestParseRefuses(t *testing.T) {
	const begin = `{"builder":"dockerfile","startedAt":"2026-01-02T03:04:05.678Z","durationMs":1,"parts":[`
	tests := []struct{ name, text string }{
		{"nothing", ""},
		{"no object", `[]`},
		{"another builder", strings.Replace(begin, "dockerfile", "make", 1) + `]}`},
		{"an unknown property", begin + `],"html":"<b>"}`},
		{"a status that is none", begin + `{"name":"a","kind":"run","status":"fine","startMs":0,"durationMs":0}]}`},
		{"a negative time", begin + `{"name":"a","kind":"run","status":"ran","startMs":-1,"durationMs":0}]}`},
		{"a fraction", begin + `{"name":"a","kind":"run","status":"ran","startMs":0.5,"durationMs":0}]}`},
		{"a digest that is none", begin + `],"images":[{"digest":"../../etc","layers":[]}]}`},
		{"no time", strings.Replace(begin, "03:04:05.678", "99:99:99", 1) + `]}`},
		{"more behind it", begin + `]}{}`},
		{"too large", begin + `]}` + strings.Repeat(" ", Limit)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got, err := Parse([]byte(test.text)); err == nil {
				t.Errorf("it was read as %+v", got)
			}
		})
	}
}

func TestTransfer(t *testing.T) {
	want := Transfer{Uploaded: Blobs{2, 3_379_459}, Skipped: Blobs{1, 689_490}}
	raw, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseTransfer(raw); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for name, text := range map[string]string{
		"nothing": "", "a list": "[]", "less than nothing": `{"uploaded":{"count":-1}}`,
		"too much": `{"mounted":{"bytes":9000000000000000000}}`, "too large": strings.Repeat(" ", 2_000) + "{}",
	} {
		if got, err := ParseTransfer([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// Whatever somebody leaves in the place of a report, what is read of it can be written again.
func FuzzParse(f *testing.F) {
	for _, r := range []Report{large(3, 2, 3, 1, 10, "x"), large(400, 1, 127, 1, 300, `\`)} {
		raw, err := r.Encode(plain)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"builder":"dockerfile","startedAt":"2026-01-02T03:04:05Z","durationMs":1e3,"parts":[]}`))
	schemas.MustLoad(Name) // which is compiled once
	f.Fuzz(func(t *testing.T, raw []byte) {
		var r Report
		var err error
		fuzztest.Of(4, 4).Bound(t, len(raw), func() { r, err = Parse(raw) })
		if err != nil {
			return
		}
		written, err := r.Encode(plain)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(written); err != nil {
			t.Fatalf("%v: %s", err, written)
		} else if second, _ := again.Encode(plain); !bytes.Equal(written, second) {
			t.Fatalf("written as %s, and then as %s", written, second)
		}
	})
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1_000: "1.0 kB", 96_569_016: "96.6 MB", 2e9: "2.0 GB",
	} {
		if got := SizeText(n); got != want {
			t.Errorf("%d bytes: %s, want %s", n, got, want)
		}
	}
}

// FuzzTransfer: what a step says that it sent is read the same way again.
func FuzzTransfer(f *testing.F) {
	f.Add([]byte(`{"uploaded":{"count":1,"bytes":2},"skipped":{"count":3},"mounted":{"bytes":-1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var sent Transfer
		var err error
		fuzztest.Small.Bound(t, len(raw), func() { sent, err = ParseTransfer(raw) })
		if err != nil {
			return
		}
		written, err := sent.Encode()
		if again, failed := ParseTransfer(written); err != nil || failed != nil || again != sent {
			t.Errorf("%+v becomes %+v: %v, %v", sent, again, err, failed)
		}
	})
}
