package cachemount

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// entry is a file, folder or link of a mount; or, with no mode, what the mount lacks of its base.
type entry struct {
	Path  name   `json:"p"`           // from the mount's folder, which is "."
	Mode  uint32 `json:"m,omitempty"` // as in stat(2)
	UID   uint32 `json:"u,omitempty"`
	GID   uint32 `json:"g,omitempty"`
	MTime int64  `json:"t,omitempty"` // nanoseconds since 1970
	// Own tells that the clock of the build which made the file gave it its time.
	Own bool `json:"n,omitempty"`
	// Link is the target of a symbolic link; of a file, another path of it, which is in the list before.
	Link   name   `json:"l,omitempty"`
	Size   int64  `json:"s,omitempty"` // bytes
	Sum    []byte `json:"h,omitempty"` // of the content: the first sumSize bytes of its SHA-256
	Chunk  int    `json:"c,omitempty"` // place in the mount's chunks, from 1; 0: there is no content
	Offset int64  `json:"o,omitempty"` // of the content in the chunk
}

func (e *entry) kind() uint32    { return e.Mode & unix.S_IFMT }
func (e *entry) isFolder() bool  { return e.kind() == unix.S_IFDIR }
func (e *entry) isRegular() bool { return e.kind() == unix.S_IFREG && e.Link == "" }

// name is a name of Linux, which need not be UTF-8.
type name string

// marked begins the text of a name that is no UTF-8. No name has it.
const marked = "\x00"

// MarshalText implements encoding.TextMarshaler.
func (n name) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(n)) {
		return []byte(n), nil
	}
	return []byte(marked + base64.StdEncoding.EncodeToString([]byte(n))), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *name) UnmarshalText(text []byte) error {
	if encoded, ok := strings.CutPrefix(string(text), marked); ok {
		raw, err := base64.StdEncoding.DecodeString(encoded)
		*n = name(raw)
		return err
	}
	*n = name(text)
	return nil
}

// writeList packs the list of a mount.
func writeList(entries []entry) (blob Blob, packed []byte, err error) {
	var buffer bytes.Buffer
	w, err := zstd.NewWriter(&buffer, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return blob, nil, err
	}
	counted := &counter{w: w}
	lines := json.NewEncoder(counted)
	for i := range entries {
		if err := lines.Encode(&entries[i]); err != nil {
			return blob, nil, err
		}
	}
	if err := w.Close(); err != nil {
		return blob, nil, err
	}
	packed = buffer.Bytes()
	return Blob{Digest: digest.FromBytes(packed), Size: int64(len(packed)), Plain: counted.n}, packed, nil
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// readList unpacks the list of a mount, and checks it.
func readList(ctx context.Context, store Store, m Mount) ([]entry, error) {
	if m.List.Plain > mostList || m.Files > mostEntries || m.Files < 0 {
		return nil, errors.New("the list is too long")
	}
	var entries []entry
	err := read(ctx, store, m.List, func(plain io.Reader) error {
		lines := json.NewDecoder(plain)
		for {
			var e entry
			err := lines.Decode(&e)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if len(entries) == m.Files {
				return errors.New("the list is longer than it says")
			}
			entries = append(entries, e)
		}
	})
	if err == nil {
		err = check(entries, m)
	}
	if err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	return entries, nil
}

// check wants a list to be one that Pack writes: each path stays in the mount, once, in a folder that is in the list
// before it; so no link is on the way to any.
func check(entries []entry, m Mount) error {
	if len(entries) != m.Files || len(entries) == 0 || entries[0].Path != "." || !entries[0].isFolder() {
		return errors.New("it does not begin with the mount's folder, or ends early")
	}
	folders, files := map[string]bool{".": true}, map[string]bool{".": true}
	for i := range entries[1:] {
		e := &entries[i+1]
		at := string(e.Path)
		if at == "." || !isLocal(at) {
			return fmt.Errorf("a path that leads elsewhere: %.200q", at)
		}
		if _, twice := files[at]; twice {
			return fmt.Errorf("%.200q is there twice", at)
		}
		files[at] = e.isRegular()
		if e.Mode == 0 && m.Base != "" {
			continue
		}
		if !folders[path.Dir(at)] {
			return fmt.Errorf("%.200q is in no folder", at)
		}
		if err := e.check(m); err != nil {
			return fmt.Errorf("%.200q %w", at, err)
		}
		if e.isFolder() {
			folders[at] = true
		}
		if e.kind() == unix.S_IFREG && e.Link != "" && (e.Link == "." || !files[string(e.Link)]) {
			return fmt.Errorf("%.200q is a link to no file", at)
		}
	}
	return nil
}

// check wants an entry to be a file, a folder or a link.
func (e *entry) check(m Mount) error {
	switch e.kind() {
	case unix.S_IFDIR:
		if e.Link != "" || e.Size != 0 || e.Chunk != 0 {
			return errors.New("is a folder with a content")
		}
	case unix.S_IFLNK:
		if e.Link == "" || strings.Contains(string(e.Link), "\x00") || e.Chunk != 0 {
			return errors.New("is a link without a target")
		}
	case unix.S_IFREG:
		if e.Chunk == 0 && e.Size == 0 || e.Link != "" && e.Chunk == 0 {
			return nil
		}
		if e.Chunk < 1 || e.Chunk > len(m.Chunks) || e.Size <= 0 || e.Offset < 0 ||
			e.Size > m.Chunks[e.Chunk-1].Plain || e.Offset > m.Chunks[e.Chunk-1].Plain-e.Size {
			return errors.New("has a content that is in no chunk")
		}
	default:
		return errors.New("is neither a file nor a folder nor a link")
	}
	return nil
}

// isLocal tells whether a path is one of Linux that stays where it begins, in its shortest form.
func isLocal(p string) bool {
	return p != "" && p[0] != '/' && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../") &&
		!strings.Contains(p, "\x00") && len(p) < unix.PathMax
}

// read unpacks a blob. Its size, digest and plain size must be what they are said to be: that is known at the end.
func read(ctx context.Context, store Store, b Blob, unpack func(io.Reader) error) error {
	content, err := store.Open(ctx, b)
	if err != nil {
		return err
	}
	defer content.Close()
	packed := &verified{r: io.LimitReader(content, b.Size+1), digester: digest.SHA256.Digester()}
	plain, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window))
	if err != nil {
		return err
	}
	defer plain.Close()
	limited := &io.LimitedReader{R: plain, N: b.Plain + 1}
	if err := unpack(limited); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return err
	}
	if limited.N != 1 {
		return fmt.Errorf("%s unpacks to another size than %d bytes", b.Digest, b.Plain)
	}
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if packed.n != b.Size || packed.digester.Digest() != b.Digest {
		return fmt.Errorf("%s is damaged: it has %d bytes of %d, or other ones", b.Digest, packed.n, b.Size)
	}
	return nil
}

// window is how many bytes back a packed blob may refer.
const window = 8 << 20

type verified struct {
	r        io.Reader
	n        int64
	digester digest.Digester
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.n += int64(n)
	v.digester.Hash().Write(p[:n])
	return n, err
}
