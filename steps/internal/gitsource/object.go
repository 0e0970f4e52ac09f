package gitsource

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// commit is what the step needs of a commit object.
type commit struct {
	hash    plumbing.Hash
	tree    plumbing.Hash
	parents int

	authorName, authorEmail string
	time                    time.Time // the committer's, UTC
}

func parseCommit(name plumbing.Hash, raw []byte) (commit, error) {
	c := commit{hash: name}
	var author, encoded string
	for line := range bytes.Lines(raw) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if len(line) == 0 {
			break // the message comes
		}
		key, value, _ := strings.Cut(string(line), " ")
		switch key {
		case "tree":
			if !decodeHash(&c.tree, value) {
				return c, invalid("commit %s has no valid tree", name)
			}
		case "parent":
			c.parents++
		case "author":
			author = value
		case "committer":
			_, _, c.time = parseSignature(value)
		case "encoding":
			encoded = value
		}
	}
	c.authorName, c.authorEmail, _ = parseSignature(decode(author, encoded))
	if c.tree == plumbing.ZeroHash {
		return c, invalid("commit %s has no tree", name)
	}
	return c, nil
}

// decode makes UTF-8 of a commit's text. Without a word on its encoding it should be that already; what is not is taken
// for Latin-1, as git does when it reads a message.
func decode(text, encoded string) string {
	if encoded == "" && !utf8.ValidString(text) {
		encoded = "latin1"
	}
	if e, ok := encodingOf(encoded); ok && e != nil {
		if decoded, err := e.NewDecoder().String(text); err == nil {
			return decoded
		}
	}
	return text
}

// parseSignature reads `Name <email> 1136239445 +0700`, as far as it is there.
func parseSignature(text string) (name, email string, at time.Time) {
	open, end := strings.IndexByte(text, '<'), strings.LastIndexByte(text, '>')
	if open < 0 || end < open {
		return clean([]byte(text)), "", time.Unix(0, 0).UTC()
	}
	seconds, _, _ := strings.Cut(strings.TrimSpace(text[end+1:]), " ")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || unix < 0 || unix > 1<<40 {
		unix = 0
	}
	return clean([]byte(text[:open])), clean([]byte(text[open+1 : end])), time.Unix(unix, 0).UTC()
}

func decodeHash(h *plumbing.Hash, text string) bool {
	_, err := hex.Decode(h[:], []byte(text)[:min(len(text), 2*len(h))])
	return err == nil && len(text) == 2*len(h)
}

// parseTag returns what an annotated tag points at.
func parseTag(name plumbing.Hash, raw []byte) (plumbing.Hash, error) {
	var target plumbing.Hash
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	text, ok := strings.CutPrefix(string(line), "object ")
	if !ok || !decodeHash(&target, text) {
		return target, invalid("tag %s points at nothing", name)
	}
	return target, nil
}

// treeEntry is one name in a tree.
type treeEntry struct {
	name string
	mode filemode.FileMode
	hash plumbing.Hash
}

// parseTree calls visit for each entry of a tree, so that no list of them is held: a few bytes of a pack can stand for
// millions.
func parseTree(name plumbing.Hash, raw []byte, visit func(treeEntry) error) error {
	for len(raw) > 0 {
		mode, rest, ok := bytes.Cut(raw, []byte(" "))
		if !ok {
			return invalid("tree %s ends in the middle", name)
		}
		file, rest, ok := bytes.Cut(rest, []byte{0})
		if len(file) > longestPath {
			return invalid("tree %s has a name of %d bytes", name, len(file))
		}
		e := treeEntry{name: string(file)}
		if !ok || copy(e.hash[:], rest) < len(e.hash) {
			return invalid("tree %s ends in the middle", name)
		}
		bits, err := strconv.ParseUint(string(mode[:min(len(mode), 20)]), 8, 32)
		if err != nil {
			return invalid("tree %s gives %q the mode %.20q", name, e.name, mode)
		}
		e.mode = canonical(uint32(bits))
		if err := visit(e); err != nil {
			return err
		}
		raw = rest[len(e.hash):]
	}
	return nil
}

// canonical is the mode that git reads. Only the type counts, and for a file whether its owner may execute it.
func canonical(mode uint32) filemode.FileMode {
	switch mode & 0o170000 {
	case 0o100000:
		if mode&0o100 != 0 {
			return filemode.Executable
		}
		return filemode.Regular
	case 0o120000:
		return filemode.Symlink
	case 0o040000:
		return filemode.Dir
	}
	return filemode.Submodule
}

// checkName refuses what cannot be one name in a directory, and whatever Windows or macOS would take for .git: the
// working tree may be copied to such a file system, and git refuses the same.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%q is not a file name", name)
	case len(name) > 255:
		return fmt.Errorf("%.40q… is longer than a file name can be", name)
	}
	if workspace.IsGit(name) {
		return fmt.Errorf("%q is reserved for Git itself", name)
	}
	return nil
}

// isModules tells whether such a file system may take a name for .gitmodules: also by the short names that NTFS makes.
func isModules(name string) bool {
	name = workspace.FoldName(name)
	short, number, ok := strings.Cut(name, "~")
	return name == ".gitmodules" || ok && (short == "gitmod" || short == "gi7eba" || short == "gi7eb" ||
		short == "gi7e" || short == "gi7" || short == "gi") && strings.Trim(number, "0123456789") == ""
}
