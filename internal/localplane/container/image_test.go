package container

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSuperfluous: what nobody uses does not fill a disk, and what a run may be in stays.
func TestSuperfluous(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	tests := []struct {
		name   string
		unused map[string]time.Duration // of folders, by name
		want   []string
	}{
		{name: "nothing is there"},
		{name: "few", unused: map[string]time.Duration{"a": hour, "b": 13 * day}},
		{name: "long unused", unused: map[string]time.Duration{"a": hour, "b": 15 * day}, want: []string{"b"}},
		{name: "of a killed process", unused: map[string]time.Duration{".unfinished-1": 0, "a": 0},
			want: []string{".unfinished-1"}},
		{
			name: "many",
			unused: map[string]time.Duration{
				"a": hour, "b": 2 * hour, "c": 3 * day, "d": 4 * day, "e": 5 * day, "f": 6 * day, "g": 7 * day,
				"h": 8 * day,
			},
			want: []string{"g", "h"},
		},
		{
			name: "many that are used",
			unused: map[string]time.Duration{
				"a": hour, "b": hour, "c": hour, "d": hour, "e": hour, "f": hour, "g": 23 * hour, "h": 25 * hour,
			},
			want: []string{"h"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir, now := t.TempDir(), time.Now()
			for name, unused := range test.unused {
				folder, used := filepath.Join(dir, name), now.Add(-unused)
				if err := os.Mkdir(folder, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(folder, used, used); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, ".lock"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := superfluous(entries, now); !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}
