package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// target is a fuzz target.
type target struct {
	folder, name string
	about        string // the first sentence of its comment
}

func (t target) String() string { return t.folder + "." + t.name }

// find returns the targets in the files of tests below a folder, in order. Nested modules have none.
func find(root string) ([]target, error) {
	var found []target
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && file != root {
			_, nested := os.Stat(filepath.Join(file, "go.mod"))
			if nested == nil || entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".") {
				return fs.SkipDir
			}
		}
		if !strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution|parser.ParseComments)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(file))
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Fuzz") {
				found = append(found, target{filepath.ToSlash(folder), f.Name.Name, sentence(f)})
			}
		}
		return err
	})
	slices.SortFunc(found, func(a, b target) int {
		return cmp.Or(cmp.Compare(a.folder, b.folder), cmp.Compare(a.name, b.name))
	})
	return found, err
}

// sentence is the first sentence of a target's comment, without the target's name before it.
func sentence(f *ast.FuncDecl) string {
	text := strings.Join(strings.Fields(f.Doc.Text()), " ")
	if before, _, ok := strings.Cut(text, ". "); ok {
		text = before + "."
	}
	text = strings.TrimPrefix(text, f.Name.Name)
	text = strings.TrimSpace(strings.TrimPrefix(text, ":"))
	if text == "" {
		return ""
	}
	if first, _, _ := strings.Cut(text, " "); !strings.ContainsAny(first, "._") { // no file's name
		text = strings.ToUpper(text[:1]) + text[1:]
	}
	return text
}

// A round runs targets of the project in the working directory.
type round struct {
	chosen *regexp.Regexp
	limit  time.Duration // of each target
	save   int           // how many inputs of each target to keep
	record string        // folder whose results are brought up to date; empty: none
	out    io.Writer
}

func (r round) run(ctx context.Context) error {
	all, err := find(".")
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(t target) bool { return !r.chosen.MatchString(t.String()) })
	if len(all) == 0 {
		return errors.New("no target has such a name: go run ./ci/fuzz --only=")
	}
	var crashed []string
	for i, t := range all {
		fmt.Fprintf(r.out, "%d of %d  %s\n", i+1, len(all), t)
		if r.limit > 0 {
			s := t.run(ctx, r.limit)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if s.failure != nil {
				crashed = append(crashed, t.String())
				fmt.Fprintf(r.out, "%s%v\n", s.said, s.failure)
			}
			fmt.Fprintf(r.out, "  %d inputs, %.1f s of CPU  %s\n", s.inputs, s.cpu.Seconds(), lastCount(s.said))
			if err := r.note(t, s); err != nil {
				return err
			}
		}
		if r.save > 0 {
			if err := t.keep(ctx, r.save); err != nil {
				return err
			}
		}
	}
	if crashed != nil {
		return fmt.Errorf("%d of %d targets fail: %s", len(crashed), len(all), strings.Join(crashed, ", "))
	}
	fmt.Fprintf(r.out, "%d targets, %v each: none fails\n", len(all), r.limit)
	return nil
}

// note adds a spell to the results, if somebody wants them.
func (r round) note(t target, s spell) error {
	if r.record == "" {
		return nil
	}
	return record(r.record, t, s)
}

// A spell is what one run of a target came to.
type spell struct {
	said    []byte
	inputs  int
	cpu     time.Duration // user and system time of the fuzzer's processes, without the compiler's
	failure error
}

// run compiles a target and runs it.
func (t target) run(ctx context.Context, limit time.Duration) spell {
	dir, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return spell{failure: err}
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "fuzz.test")
	only := "^" + t.name + "$"
	if said, err := exec.CommandContext(
		ctx, "go", "test", "-c", "-o", program, "-fuzz", only, "./"+t.folder,
	).CombinedOutput(); err != nil {
		return spell{said: said, failure: err}
	}
	cache, err := t.cache(ctx)
	if err != nil {
		return spell{failure: err}
	}
	command := exec.CommandContext(
		ctx, program, "-test.run", "^$", "-test.fuzz", only, "-test.fuzztime", limit.String(), "-test.timeout", "0",
		"-test.fuzzcachedir", cache, "-test.fuzzminimizetime", "5s",
	)
	command.Dir = filepath.FromSlash(t.folder)
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = 10 * time.Second
	said, err := command.CombinedOutput()
	s := spell{said: said, failure: err, inputs: inputs(said)}
	if state := command.ProcessState; state != nil {
		s.cpu = state.UserTime() + state.SystemTime() // with those of the workers, which it has waited for
	}
	return s
}

// lastCount is the line in which the fuzzer last said what it had done.
func lastCount(said []byte) string {
	var last string
	for line := range bytes.Lines(said) {
		if bytes.Contains(line, []byte("execs:")) {
			last = string(bytes.TrimSpace(line))
		}
	}
	return last
}

var execs = regexp.MustCompile(`execs: (\d+)`)

// inputs is how many inputs the fuzzer last said it had tried.
func inputs(said []byte) int {
	match := execs.FindStringSubmatch(lastCount(said))
	if match == nil {
		return 0
	}
	n, _ := strconv.Atoi(match[1])
	return n
}

// cache is the folder above the inputs that the fuzzer has found for the targets of t's package.
func (t target) cache(ctx context.Context) (string, error) {
	name, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.ImportPath}}", "./"+t.folder).Output()
	if err != nil {
		return "", fmt.Errorf("go list ./%s: %w", t.folder, err)
	}
	cache, err := exec.CommandContext(ctx, "go", "env", "GOCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	parts := []string{strings.TrimSpace(string(cache)), "fuzz", filepath.FromSlash(strings.TrimSpace(string(name)))}
	return filepath.Join(parts...), nil
}
