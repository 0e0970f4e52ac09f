package dockerfile

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whatever the name of a file in the context, and whatever a file is: it comes into the image.
func TestOddFiles(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for name, odd := range map[string]string{
		"Latin-1": "caf\xe9", "half of a rune": "a\xe2\x82", "line break": "a\nb", "control": "a\x01\x1b[2Jb",
		"backslash": `a\b`, "quotes": `a"b'c`, "dots": "..a", "spaces": " a ", "glob": "a*[b]?", "percent": "%s",
		"longest": strings.Repeat("x", 255),
	} {
		for _, verified := range []bool{false, true} {
			if verified && name != "Latin-1" && name != "line break" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				in := parameters(project(t, map[string]string{
					"Dockerfile": "FROM busybox:1 AS a\nCOPY . /src\nRUN ls /src\n" +
						"FROM scratch\nCOPY --from=a /src /to\n",
					odd: "file", "d/" + odd + "/" + odd: "below", "link": "-> " + odd,
				}), r)
				if verified {
					in = chained(t, in)
				}
				b := succeed(t, in)
				if b.files["to/"+odd] != "file" || b.files["to/d/"+odd+"/"+odd] != "below" {
					t.Errorf("the image has %q", b.files)
				}
				if h := b.headers["to/link"]; h == nil || h.Linkname != odd {
					t.Errorf("the link became %+v", h)
				}
			})
		}
	}
	for name, test := range map[string]struct {
		make func(path string) error
		want byte
	}{
		"pipe":   {func(p string) error { return syscall.Mkfifo(p, 0o644) }, tar.TypeFifo},
		"device": {func(p string) error { return syscall.Mknod(p, syscall.S_IFCHR|0o644, 0x103) }, tar.TypeChar},
		// As Docker does: there is no such thing in a layer.
		"socket": {func(p string) error { return syscall.Mknod(p, syscall.S_IFSOCK|0o644, 0) }, tar.TypeReg},
		"attribute": {func(p string) error {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				return err
			}
			return syscall.Setxattr(p, "user.\xe9", []byte("\xff"), 0)
		}, tar.TypeReg},
		"second name": {func(p string) error {
			if err := os.WriteFile(p+"\xe9", nil, 0o644); err != nil {
				return err
			}
			return os.Link(p+"\xe9", p)
		}, tar.TypeReg},
		"many folders": {func(p string) error {
			deep := p
			for range 12 {
				deep = filepath.Join(deep, strings.Repeat("x", 200))
			}
			return os.MkdirAll(deep, 0o755)
		}, tar.TypeDir},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"}), nil)
			if err := test.make(filepath.Join(in.Workspace.Source(), "odd")); err != nil {
				t.Fatal(err)
			}
			if h := succeed(t, in).headers["odd"]; h == nil || h.Typeflag != test.want {
				t.Errorf("became %+v", h)
			}
		})
	}
}
