package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// largest is how many bytes an input has at most that is kept.
const largest = 2 << 10

// input is one that the fuzzer has found.
type input struct {
	name    string
	content []byte
}

// keep copies some of the inputs that the fuzzer has found into testdata: the shortest, each of which runs a part of
// the package that neither the seeds nor those kept before run.
func (t target) keep(ctx context.Context, most int) error {
	candidates, err := t.found(ctx)
	if err != nil || len(candidates) == 0 {
		return err
	}
	dir, err := os.MkdirTemp("", "fuzz-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "cover.test")
	if said, err := exec.CommandContext(
		ctx, "go", "test", "-c", "-cover", "-o", program, "./"+t.folder,
	).CombinedOutput(); err != nil {
		return fmt.Errorf("compile %s: %w\n%s", t, err, said)
	}
	to := filepath.Join(t.folder, "testdata", "fuzz", t.name)
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	reached := map[string]bool{}
	t.reach(ctx, program, "", reached)
	for _, in := range candidates {
		file := filepath.Join(to, in.name)
		if _, err := os.Stat(file); err == nil || most <= 0 {
			continue
		}
		if err := os.WriteFile(file, in.content, 0o600); err != nil {
			return err
		}
		if t.reach(ctx, program, in.name, reached) > 0 {
			most--
		} else if err := os.Remove(file); err != nil {
			return err
		}
	}
	// It stays where it holds something.
	_ = os.Remove(to)
	return ctx.Err()
}

// found returns the inputs in Go's cache that are not too long, from the shortest to the longest.
func (t target) found(ctx context.Context) ([]input, error) {
	cache, err := t.cache(ctx)
	if err != nil {
		return nil, err
	}
	from := filepath.Join(cache, t.name)
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var inputs []input
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return nil, err
		}
		if len(content) <= largest {
			inputs = append(inputs, input{e.Name(), content})
		}
	}
	slices.SortFunc(inputs, func(a, b input) int {
		return cmp.Or(cmp.Compare(len(a.content), len(b.content)), cmp.Compare(a.name, b.name))
	})
	return inputs, nil
}

// reach runs one input, or without a name all that there are, adds what it runs of the package to reached, and returns
// how many parts of it are new there. An input that fails is one that runs nothing.
func (t target) reach(ctx context.Context, program, name string, reached map[string]bool) (fresh int) {
	profile := program + ".profile"
	defer os.Remove(profile)
	only := "^" + t.name + "$"
	if name != "" {
		only += "/^" + name + "$"
	}
	command := exec.CommandContext(ctx, program, "-test.run", only, "-test.coverprofile", profile)
	command.Dir = filepath.FromSlash(t.folder)
	if command.Run() != nil {
		return 0
	}
	raw, _ := os.ReadFile(profile)
	for line := range bytes.Lines(raw) {
		// file:from,to statements times
		part, times, _ := strings.Cut(string(bytes.TrimSpace(line)), " ")
		if strings.HasSuffix(times, " 0") || strings.HasPrefix(part, "mode:") || reached[part] {
			continue
		}
		reached[part] = true
		fresh++
	}
	return fresh
}
