package soaktest

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The slope follows most points, wherever a quarter of them is.
func TestSlope(t *testing.T) {
	t.Parallel()
	x := []float64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	line := make([]float64, len(x))
	for i := range x {
		line[i] = 5 + 2*x[i]
	}
	if got := Slope(x, line); math.Abs(got-2) > 1e-9 {
		t.Errorf("of a line: %v", got)
	}
	line[1], line[4], line[10] = 900, -300, 70
	if got := Slope(x, line); got < 1.5 || got > 2.5 {
		t.Errorf("with three points off the line: %v", got)
	}
	if got := Slope([]float64{3, 3}, []float64{1, 2}); got != 0 {
		t.Errorf("of one moment: %v", got)
	}
}

// sampled is a soak of samples ten minutes and four builds apart.
func sampled(q Quantity, values ...float64) *Soak {
	s := &Soak{Outcomes: map[string]int{"Succeeded": 4 * len(values)}}
	for i, v := range values {
		s.Add(Sample{
			After: time.Duration(i) * 10 * time.Minute, Builds: 4 * i, Values: map[string]float64{q.Name: v},
		}, func(string) Quantity { return q })
	}
	return s
}

func TestJudge(t *testing.T) {
	t.Parallel()
	memory := Quantity{Name: "memory", Unit: "MiB", Hour: 24, Spare: 24}
	claims := Quantity{Name: "claims", PerBuild: true, Build: 0.02, Spare: 0.9}
	shown := claims
	shown.Free = true
	for _, test := range []struct {
		name   string
		of     Quantity
		values []float64
		grows  bool
	}{
		{"flat", memory, []float64{80, 81, 79, 80, 82, 80, 81, 80, 79}, false},
		{"a heap that finds its size", memory, []float64{40, 90, 120, 121, 120, 122, 121, 122, 121}, false},
		{"a heap that was large once", memory, []float64{80, 80, 80, 80, 600, 80, 80, 80, 80}, false},
		{"a little all the time", memory, []float64{80, 82, 84, 86, 88, 90, 92, 94, 96}, false},
		{"a leak", memory, []float64{80, 90, 100, 110, 120, 130, 140, 150, 160}, true},
		{"a leak with noise", memory, []float64{80, 95, 85, 115, 112, 140, 125, 160, 150}, true},
		{"it falls", memory, []float64{160, 150, 140, 130, 120, 110, 100, 90, 80}, false},
		{"a claim of each turn", claims, []float64{0, 1, 2, 3, 4, 5, 6, 7, 8}, true},
		{"a claim of each third turn", claims, []float64{0, 0, 0, 1, 1, 1, 2, 2, 2}, true},
		{"one claim for a while", claims, []float64{0, 0, 0, 0, 1, 1, 0, 0, 0}, false},
		{"a claim of each turn that is only shown", shown, []float64{0, 1, 2, 3, 4, 5, 6, 7, 8}, false},
	} {
		verdicts, enough := sampled(test.of, test.values...).Judge()
		if !enough || len(verdicts) != 1 || verdicts[0].Grows != test.grows {
			t.Errorf("%s: %+v", test.name, verdicts)
		}
	}
	if _, enough := sampled(claims, 0, 1, 2).Judge(); enough {
		t.Error("three samples are enough")
	}
}

// What was not there in the first sample counts as nothing there.
func TestLateQuantity(t *testing.T) {
	t.Parallel()
	s := sampled(Quantity{Name: "a"}, 1, 1, 1, 1, 1, 1)
	s.Samples[5].Values["b"] = 7
	s.Add(Sample{After: time.Hour, Values: map[string]float64{"a": 1, "b": 7}}, func(name string) Quantity {
		return Quantity{Name: name}
	})
	verdicts, _ := s.Judge()
	if len(verdicts) != 2 || verdicts[1].First != 0 || verdicts[1].Most != 7 || s.Peaks["b"] != 7 {
		t.Errorf("%+v", verdicts)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	s := sampled(Quantity{Name: "claims <of> runs", PerBuild: true, Build: 0.02}, 0, 1, 2, 3, 4, 5)
	s.Peak(map[string]float64{"claims <of> runs": 12})
	verdicts, _ := s.Judge()
	text := s.Page(verdicts)
	for _, want := range []string{
		"20 builds in 50m0s, with 6 samples", "24 Succeeded", "+0.25/build", "0.02/build, 0 spared", "| GROWS |",
		"| 12 |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	picture := s.picture(verdicts)
	for decoder := xml.NewDecoder(strings.NewReader(picture)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("%v\n%s", err, picture)
		}
	}
	// From the bottom on the left to the top on the right.
	if !strings.Contains(picture, `points="15.0,70.0 `) || !strings.Contains(picture, ` 285.0,26.0"`) {
		t.Errorf("the line is another:\n%s", picture)
	}
}

// What is in a folder is checked by its samples.
func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := Check(dir); err == nil {
		t.Error("nothing is taken for a soak")
	}
	s := sampled(Quantity{Name: "mounts"}, 1, 1, 2, 1, 1, 1)
	if err := errors.Join(s.Write(dir), Check(dir)); err != nil {
		t.Error(err)
	}
	page := filepath.Join(dir, pageFile)
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(page, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), pageFile) {
		t.Errorf("a page that somebody has edited: %v", err)
	}
}

// TestDocs: the page in docs is what was sampled.
func TestDocs(t *testing.T) {
	t.Parallel()
	if err := Check("../../docs/reference"); err != nil {
		t.Error(err)
	}
}
