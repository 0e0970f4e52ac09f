package buildkit

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
)

// Overlays that can be written to are mounted as volatile, where they are to be, as often as needed; other mounts stay
// as they are.
func TestVolatile(t *testing.T) {
	for _, asked := range []bool{true, false} {
		work := t.TempDir()
		refused := filepath.Join(work, "work", "incompat", "volatile")
		if err := os.MkdirAll(refused, 0o700); err != nil {
			t.Fatal(err)
		}
		given := []mount.Mount{
			{Type: "bind", Source: "/somewhere", Options: []string{"rw", "rbind"}},
			{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b"}},
			{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=" + work, "upperdir=/u"}},
		}
		got, err := again(given, asked)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got[:2], given[:2]) {
			t.Errorf("others are mounted in another way: %v", got[:2])
		}
		want := slices.Clone(given[2].Options)
		if asked {
			want = append(want, "volatile")
		}
		if !slices.Equal(got[2].Options, want) {
			t.Errorf("an overlay has the options %q, wanted %q", got[2].Options, want)
		}
		if _, err := os.Lstat(refused); !os.IsNotExist(err) {
			t.Errorf("the kernel would refuse to mount it again: %v", err)
		}
	}
}
