package workspace

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// The modes of a manifest, in Git's spelling. A folder is listed only when nothing is in it, with a slash at its end:
// others are known by the paths in them.
const (
	modeFile       = "100644"
	modeExecutable = "100755"
	modeLink       = "120000"
	modeFolder     = "040000"
)

// record is one entry of a manifest.
type record struct {
	mode string
	size int64  // in bytes; of a link, that of its target's text
	hash string // SHA-256 in hex, of a file's content or a link's target; of a folder, that of nothing
	path string // from the source's folder, with slashes
}

// hashOfNothing is the SHA-256 of no bytes.
const hashOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// modeOf is an entry's mode; false for what no repository holds, such as a pipe or a device.
func modeOf(info fs.FileMode) (mode string, ok bool) {
	switch {
	case info.IsRegular() && info&0o100 != 0: // the owner's alone: a volume changes the rights of the group
		return modeExecutable, true
	case info.IsRegular():
		return modeFile, true
	case info&fs.ModeType == fs.ModeSymlink:
		return modeLink, true
	case info.IsDir():
		return modeFolder, true
	}
	return "", false
}

// Mode is the mode that Git knows for what has this one: it tells of a file whether its owner may execute it, and
// nothing else. A volume changes other rights, as a pod's fsGroup lets groups write, and hands its group down.
func Mode(info fs.FileMode) fs.FileMode {
	switch {
	case info.IsDir():
		return fs.ModeDir | 0o755
	case info.IsRegular() && info&0o100 != 0:
		return 0o755
	case info.IsRegular():
		return 0o644
	}
	return info
}

// manifest lists all that is in the source, in the order of the paths' bytes. It stays one text, since there may be
// hundreds of thousands of entries.
type manifest struct {
	text   string
	starts []int32 // of each record in text
}

// parseManifest reads a manifest. What no WriteTree would have written is an error.
func parseManifest(text string) (manifest, error) {
	m := manifest{text: text, starts: make([]int32, 0, strings.Count(text, "\x00"))}
	var before record
	for at := 0; at < len(text); {
		r, length, err := parseRecord(text[at:])
		if err == nil && len(m.starts) > 0 && r.path <= before.path {
			err = fmt.Errorf("%q stands after %q", r.path, before.path)
		}
		if err != nil {
			return manifest{}, fmt.Errorf("record %d: %w", len(m.starts)+1, err)
		}
		m.starts = append(m.starts, int32(at))
		before, at = r, at+length
	}
	return m, nil
}

// parseRecord reads the record at the beginning of a text, and returns its length, too.
func parseRecord(text string) (record, int, error) {
	line, _, ended := strings.Cut(text, "\x00")
	if !ended {
		return record{}, 0, fmt.Errorf("it has no end")
	}
	head, path, ok := strings.Cut(line, "\t")
	fields := strings.Split(head, " ")
	if !ok || len(fields) != 3 {
		return record{}, 0, fmt.Errorf("%.100q is not mode, size, digest and path", line)
	}
	r := record{mode: fields[0], hash: fields[2], path: path}
	var err error
	if r.size, err = strconv.ParseInt(fields[1], 10, 64); err != nil || r.size < 0 ||
		fields[1] != strconv.FormatInt(r.size, 10) {
		return record{}, 0, fmt.Errorf("%.100q: the size is not a number of bytes", line)
	}
	if !isHash(r.hash) {
		return record{}, 0, fmt.Errorf("%.100q: the digest is not a SHA-256", line)
	}
	switch r.mode {
	case modeFile, modeExecutable, modeLink:
	case modeFolder:
		if path, ok = strings.CutSuffix(path, "/"); !ok || r.size != 0 || r.hash != hashOfNothing {
			return record{}, 0, fmt.Errorf("%.100q is not how a folder is listed", line)
		}
	default:
		return record{}, 0, fmt.Errorf("%.100q: there is no such mode", line)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || part == gitFolder {
			return record{}, 0, fmt.Errorf("%.100q: the path is not one of the repository", line)
		}
	}
	return r, len(line) + 1, nil
}

// isHash tells whether a text is a SHA-256 in hex, in lower case.
func isHash(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32 && strings.ToLower(text) == text
}

// len is the number of records.
func (m manifest) len() int { return len(m.starts) }

// record is the one at a place in the order.
func (m manifest) record(i int) record {
	r, _, err := parseRecord(m.text[m.starts[i]:])
	if err != nil {
		panic(err) // parseManifest has read it
	}
	return r
}

// search is the place of the first record whose path is not before this one.
func (m manifest) search(path string) int {
	return sort.Search(m.len(), func(i int) bool { return m.record(i).path >= path })
}

// find is the record of a path.
func (m manifest) find(path string) (record, bool) {
	if i := m.search(path); i < m.len() {
		r := m.record(i)
		return r, r.path == path
	}
	return record{}, false
}

// isFolder tells whether a path is a folder: the source itself, one that is listed, or one with something in it.
func (m manifest) isFolder(path string) bool {
	if path == "" {
		return true
	}
	i := m.search(path + "/")
	return i < m.len() && strings.HasPrefix(m.record(i).path, path+"/")
}

// sortEntries puts a folder's entries into the order that makes a walk's paths sorted: a folder counts with its slash.
func sortEntries(entries []fs.DirEntry) {
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(key(a), key(b)) })
}
