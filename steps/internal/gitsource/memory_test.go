package gitsource

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// readPack is a process that resolves a pack as the step does, streaming every blob, and prints its peak of memory in
// KiB.
func readPack(path string) int {
	debug.SetGCPercent(GarbagePercent)
	in, err := os.Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir := filepath.Dir(path)
	kept, err := os.CreateTemp(dir, "kept")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := receivePack(context.Background(), in, kept, func() (*os.File, error) {
		spilled, err := os.CreateTemp(dir, "spilled")
		if err != nil {
			return nil, err
		}
		return spilled, os.Remove(spilled.Name())
	}, nil, &meter{})
	if err == nil {
		err = p.resolve(context.Background(), plumbing.BlobObject, writers(), func(plumbing.Hash) func(content) error {
			return func(c content) error {
				r, err := c.open()
				if err == nil {
					_, err = io.Copy(io.Discard, r)
				}
				return err
			}
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Println(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
		}
	}
	return 0
}

// raced tells whether the race detector is in this program.
func raced() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Deltas of large blobs take bounded memory, however long their chain is and however many of its objects are held:
// three of 150 MB took 465 MiB, and git takes about as much.
func TestMemoryOfDeltas(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks gigabytes")
	}
	t.Parallel()
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip(err)
	}
	most := 160 << 10 // KiB
	if raced() {
		most *= 3 // the race detector keeps much beside each byte
	}
	for name, c := range map[string]struct {
		size, chain int
		sides       bool // each object has a second delta, so that all are held at once
	}{
		"three of 150 MB":            {150 << 20, 2, false},
		"eight of 100 MB, all held":  {100 << 20, 4, true},
		"forty of 20 MB, all held":   {20 << 20, 20, true},
		"twenty of 40 MB, in a line": {40 << 20, 20, false},
	} {
		t.Run(name, func(t *testing.T) {
			line := []byte("sixteen bytes..\n")
			base := bytes.Repeat(line, c.size/len(line))
			objects := [][]byte{object(plumbing.BlobObject, len(base), nil, base)}
			previous := nameOf(t, plumbing.BlobObject, base)
			for i := range c.chain {
				text := fmt.Sprint("more ", i)
				if c.sides {
					side := deltaOf(len(base), 1, "side "+text)
					objects = append(objects, object(plumbing.REFDeltaObject, len(side), previous[:], side))
				}
				delta := deltaOf(len(base), 1, text)
				objects = append(objects, object(plumbing.REFDeltaObject, len(delta), previous[:], delta))
				base = append(base, text...)
				previous = nameOf(t, plumbing.BlobObject, base)
			}
			path := filepath.Join(t.TempDir(), "pack")
			if err := os.WriteFile(path, packed(objects...), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "TEST_READS_PACK="+path)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var peak int
			if _, err := fmt.Sscan(string(out), &peak); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("%d MiB at the peak", peak>>10)
			if peak > most {
				t.Errorf("%d MiB, want at most %d", peak>>10, most>>10)
			}
		})
	}
}
