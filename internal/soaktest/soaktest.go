// Package soaktest tells whether a machine on which builds run for hours stays as it is: samples between builds, lines
// through them, and a report of what grows.
package soaktest

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// A Quantity is something that is sampled, and what it may grow by. With zero bounds it must not grow.
type Quantity struct {
	Name  string
	Unit  string  // MiB, or empty for a count
	Hour  float64 // most that it may grow by in an hour, if PerBuild is not set
	Build float64 // most that it may grow by with each build, if PerBuild is set
	// PerBuild is set for what a build makes and must take away again. Other quantities are bounded by the hour.
	PerBuild bool
	// Spare is what all of the growth may come to before a slope counts: a heap that has not found its size yet.
	Spare float64
	// Free is set for what is shown, and not judged: what grows by intention, such as a registry that keeps all images.
	Free bool
}

// A Sample is what a machine had at one moment, when nothing was built.
type Sample struct {
	After  time.Duration // since the first sample
	Builds int           // that had ended
	Values map[string]float64
}

// A Soak is what was sampled while builds ran.
type Soak struct {
	About      string // when, and on what machine: a sentence
	Quantities []Quantity
	Samples    []Sample
	Peaks      map[string]float64 // most at any moment, also while builds ran
	Outcomes   map[string]int     // how builds ended, with their number
}

// Peak keeps the most of each value.
func (s *Soak) Peak(values map[string]float64) {
	if s.Peaks == nil {
		s.Peaks = map[string]float64{}
	}
	for name, v := range values {
		s.Peaks[name] = max(s.Peaks[name], v)
	}
}

// Add adds a sample, and a quantity by of for each value that has none yet.
func (s *Soak) Add(sample Sample, of func(name string) Quantity) {
	s.Samples = append(s.Samples, sample)
	s.Peak(sample.Values)
	for _, name := range slices.Sorted(maps.Keys(sample.Values)) {
		if !slices.ContainsFunc(s.Quantities, func(q Quantity) bool { return q.Name == name }) {
			s.Quantities = append(s.Quantities, of(name))
		}
	}
	slices.SortStableFunc(s.Quantities, func(a, b Quantity) int { return strings.Compare(a.Name, b.Name) })
}

// A Verdict is what became of one quantity.
type Verdict struct {
	Quantity
	First, Last, Least, Most float64 // of the samples
	// Slope is how steep the last two thirds of the samples are: by the hour, or by the build.
	Slope float64
	Grows bool // by more than it may
}

// fewest is how many samples a verdict takes: of fewer, two thirds have no line that says anything.
const fewest = 6

// Judge returns a verdict on each quantity; enough is false where there are too few samples for any.
func (s *Soak) Judge() (verdicts []Verdict, enough bool) {
	if len(s.Samples) < fewest {
		return nil, false
	}
	for _, q := range s.Quantities {
		verdicts = append(verdicts, s.judge(q))
	}
	return verdicts, true
}

func (s *Soak) judge(q Quantity) Verdict {
	var hours, builds, values []float64
	for _, sample := range s.Samples {
		hours = append(hours, sample.After.Hours())
		builds = append(builds, float64(sample.Builds))
		values = append(values, sample.Values[q.Name]) // a process that does not run has nothing
	}
	v := Verdict{
		Quantity: q, First: values[0], Last: values[len(values)-1], Least: slices.Min(values), Most: slices.Max(values),
	}
	along, bound := hours, q.Hour
	if q.PerBuild {
		along, bound = builds, q.Build
	}
	settled := len(values) / 3
	along, values = along[settled:], values[settled:]
	v.Slope = Slope(along, values)
	whole := v.Slope * (along[len(along)-1] - along[0])
	v.Grows = !q.Free && v.Slope > bound && whole > q.Spare
	return v
}

// Slope is how steep the line through points is by Theil and Sen: the median of the slopes between each two points. A
// quarter of the points may lie anywhere, such as one of a moment in which a heap was large, and hardly change it.
func Slope(x, y []float64) float64 {
	var slopes []float64
	for i := range x {
		for j := range i {
			if x[i] != x[j] {
				slopes = append(slopes, (y[i]-y[j])/(x[i]-x[j]))
			}
		}
	}
	if len(slopes) == 0 {
		return 0
	}
	slices.Sort(slopes)
	middle := len(slopes) / 2
	if len(slopes)%2 == 1 {
		return slopes[middle]
	}
	return (slopes[middle-1] + slopes[middle]) / 2
}
