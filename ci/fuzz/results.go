package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// results are what all rounds came to whose figures were kept.
type results struct {
	Tallies map[string]tally // by target
	Found   []finding        // written by hand
}

// tally is what a target has done.
type tally struct {
	Inputs int     // that were tried
	CPU    float64 // seconds of user and system time, without the compiler's
	Last   string  // day of the last round
}

// finding is something that a target found, and that is mended.
type finding struct {
	Target string
	What   string // a sentence
	Proof  string // file with the input or the seed, from the project's root
}

const (
	resultsFile = "fuzzing.json"
	pageFile    = "fuzzing.md"
)

func readResults(dir string) (results, error) {
	r := results{Tallies: map[string]tally{}}
	raw, err := os.ReadFile(filepath.Join(dir, resultsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	return r, err
}

// record adds a spell of a target to the results in a folder, and writes the page there anew.
func record(dir string, t target, s spell) error {
	r, err := readResults(dir)
	if err != nil {
		return err
	}
	was := r.Tallies[t.String()]
	r.Tallies[t.String()] = tally{
		was.Inputs + s.inputs, was.CPU + s.cpu.Seconds(), time.Now().UTC().Format(time.DateOnly),
	}
	raw, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	all, err := find(".")
	return errors.Join(
		err, os.WriteFile(filepath.Join(dir, resultsFile), append(raw, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, pageFile), []byte(page(all, r)), 0o644),
	)
}

const head = `# Fuzzing

<!-- Written by make fuzz RECORD=1: do not edit. -->

What reads bytes of strangers has a fuzz target: a function that gets what a fuzzer makes, and fails where the parser
panics, hangs, takes what it must refuse, or costs more than a bound that grows with the input's length
([fuzztest](../../internal/fuzztest/fuzztest.go)). Seeds are in the code, and in testdata/fuzz of each package; go test
runs them all. ` + "`make fuzz TIME=5m ONLY=gitsource`" + ` goes on from what the machine's cache of Go holds of the
last time. With ` + "`RECORD=1`" + ` it adds its figures to this page. CPU is user and system time of the
fuzzer's processes.

`

// page is what people read.
func page(all []target, r results) string {
	var b strings.Builder
	b.WriteString(head)
	var inputs int
	var cpu float64
	for _, t := range all {
		inputs, cpu = inputs+r.Tallies[t.String()].Inputs, cpu+r.Tallies[t.String()].CPU
	}
	fmt.Fprintf(&b, "In all: %d targets, %s inputs, %.2f hours of CPU.\n\n", len(all), thousands(inputs), cpu/3600)
	b.WriteString("| target | the rule | inputs | minutes of CPU | last |\n|---|---|---:|---:|---|\n")
	for _, t := range all {
		tried := r.Tallies[t.String()]
		last := tried.Last
		if last == "" {
			last = "not yet"
		}
		fmt.Fprintf(
			&b, "| %s `%s` | %s | %s | %.1f | %s |\n", t.folder, t.name,
			strings.ReplaceAll(t.about, "|", "\\|"), thousands(tried.Inputs), tried.CPU/60, last,
		)
	}
	b.WriteString("\n## What they found\n\nAll of it is mended, and the input is a seed since.\n\n")
	b.WriteString("| target | what | seed |\n|---|---|---|\n")
	for _, f := range r.Found {
		fmt.Fprintf(&b, "| `%s` | %s | [%s](../../%s) |\n", f.Target, f.What, filepath.Base(f.Proof), f.Proof)
	}
	return b.String()
}

// thousands writes a number with commas.
func thousands(n int) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}
