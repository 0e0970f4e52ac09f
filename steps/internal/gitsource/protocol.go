package gitsource

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// This is the client's half of Git's pack protocol, version 0, which nearly every server speaks: gitprotocol-pack(5).
// protocol2.go has version 2, for servers that answer with that. It is written here rather than taken from go-git
// because there errors lose their types on the way (a cut connection, a status, a cancelled context become text).

// agent names us to servers. Some answer Git only to what calls itself git.
const agent = "git/2.0-stepwright"

// What a server may say before its pack. The largest repositories known have a tenth of these references.
const (
	largestAdvertisement = 128 << 20 // bytes
	mostRefs             = 1_000_000
	mostCapabilities     = 1000     // of version 2, where each has a packet
	mostPackets          = 100_000  // between the references and the pack, and packets without a part of the pack
	mostProgress         = 16 << 20 // bytes of what is said beside the pack
)

// packets reads pkt-lines, of which none is longer than 64 KiB.
type packets struct{ r *bufio.Reader }

// bounded ends with an error after so many bytes.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &malformed{fmt.Sprintf("its list of references has more than %d bytes", largestAdvertisement)}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// errFlush is the flush packet that ends a list.
var errFlush = errors.New("flush packet")

// errDelimiter is the packet that ends a section of an answer, in version 2 only.
var errDelimiter error = &malformed{"a delimiter packet is not expected here"}

var errTalk error = &malformed{"it talks and talks, and sends no pack"}

// serverError is the server's message when it does not go on.
type serverError struct{ text string }

func (e *serverError) Error() string { return "the server says: " + e.text }

// malformed is an answer that is not the protocol's.
type malformed struct{ text string }

func (e *malformed) Error() string { return e.text }

// length reads the head of a packet: the size of what follows, or errFlush.
func (p packets) length() (int, error) {
	var head [4]byte
	if _, err := io.ReadFull(p.r, head[:]); err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(head[:]), 16, 16)
	switch {
	case n == 1 && err == nil:
		return 0, errDelimiter
	case err != nil || n > 0 && n < 4:
		return 0, &malformed{fmt.Sprintf("%q is not the length of a packet", head)}
	case n == 0:
		return 0, errFlush
	}
	return int(n) - 4, nil
}

// next reads one packet, without its line end.
func (p packets) next() ([]byte, error) {
	n, err := p.length()
	if err != nil {
		return nil, err
	}
	line := make([]byte, n)
	if _, err := io.ReadFull(p.r, line); err != nil {
		return nil, cut(err)
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	if text, ok := bytes.CutPrefix(line, []byte("ERR ")); ok {
		return nil, &serverError{clean(text)}
	}
	return line, nil
}

// cut makes the end of a stream that should go on an error.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func appendPacket(b []byte, format string, args ...any) []byte {
	line := fmt.Sprintf(format, args...)
	return fmt.Appendf(b, "%04x%s", len(line)+4, line)
}

// advertisement is a server's list of references and capabilities.
type advertisement struct {
	refs         []ref
	capabilities map[string]string
	version2     bool // then refs must be asked for
}

// ref is a branch, a tag or another name for an object.
type ref struct {
	name   string
	hash   plumbing.Hash
	peeled plumbing.Hash // what an annotated tag points at; else zero
}

// commit is what the ref leads to.
func (r ref) commit() plumbing.Hash {
	if r.peeled != plumbing.ZeroHash {
		return r.peeled
	}
	return r.hash
}

// readAdvertisement reads the server's list. It wraps io.EOF when the server said nothing at all.
func readAdvertisement(p packets) (*advertisement, error) {
	adv := &advertisement{capabilities: map[string]string{}}
	for first := true; ; {
		line, err := p.next()
		if err == errFlush {
			break
		}
		if err == io.EOF && first {
			return nil, err
		}
		if err != nil {
			return nil, cut(err)
		}
		if first && string(line) == "version 2" {
			return adv, adv.readCapabilities(p)
		}
		if first && bytes.HasPrefix(line, []byte("version ")) {
			continue
		}
		if first {
			var caps []byte
			line, caps, _ = bytes.Cut(line, []byte{0})
			for c := range strings.FieldsSeq(string(caps)) {
				name, value, _ := strings.Cut(c, "=")
				adv.capabilities[name] = value
			}
			first = false
		}
		if err := adv.checkFormat(); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line, []byte("shallow ")) {
			continue
		}
		text, name, ok := bytes.Cut(line, []byte(" "))
		var hash plumbing.Hash
		if !ok || !decodeHash(&hash, string(text)) {
			return nil, &malformed{fmt.Sprintf("%.60q is not a reference", line)}
		}
		if base, ok := bytes.CutSuffix(name, []byte("^{}")); ok {
			if n := len(adv.refs); n > 0 && adv.refs[n-1].name == string(base) {
				adv.refs[n-1].peeled = hash
			}
			continue // also capabilities^{}, the only line of an empty repository
		}
		if err := adv.add(ref{name: string(name), hash: hash}); err != nil {
			return nil, err
		}
	}
	return adv, nil
}

func (a *advertisement) add(r ref) error {
	if len(a.refs) == mostRefs {
		return outcome.Errorf(outcome.RepositoryInvalid, "the repository has more than %d references", mostRefs)
	}
	a.refs = append(a.refs, r)
	return nil
}

func (a *advertisement) checkFormat() error {
	if f := a.capabilities["object-format"]; f != "" && f != "sha1" {
		return outcome.Errorf(
			outcome.RepositoryInvalid, "the repository's objects are named by %s; only sha1 is supported", f,
		).
			WithHint("Use a repository with SHA-1 object names, which is what git init makes by default.")
	}
	return nil
}

// supports tells whether the server has any of these capabilities.
func (a *advertisement) supports(any ...string) bool {
	return slices.ContainsFunc(any, func(name string) bool { _, ok := a.capabilities[name]; return ok })
}

// find returns the ref of that full name.
func (a *advertisement) find(name string) (ref, bool) {
	i := slices.IndexFunc(a.refs, func(r ref) bool { return r.name == name })
	if i < 0 {
		return ref{}, false
	}
	return a.refs[i], true
}

// request is what to fetch.
type request struct {
	wants       []plumbing.Hash
	depth       int  // 0: the whole history
	commitsOnly bool // without trees and blobs
}

// encode writes the request as the server at adv can understand it.
func (r request) encode(adv *advertisement) []byte {
	if adv.version2 {
		return r.encode2(adv)
	}
	caps := "agent=" + agent
	// With nothing to negotiate, multi_ack makes no difference; Azure DevOps insists on it.
	for _, options := range [][]string{
		{"multi_ack_detailed", "multi_ack"},
		{"side-band-64k", "side-band"},
		{"ofs-delta"},
		{"no-progress"},
		{"include-tag"},
		{"filter"},
	} {
		for _, c := range options {
			if adv.supports(c) && (c != "filter" || r.commitsOnly) {
				caps += " " + c
				break
			}
		}
	}
	if r.depth > 0 {
		caps += " shallow"
	}
	var b []byte
	for i, want := range r.wants {
		if i == 0 {
			b = appendPacket(b, "want %s %s\n", want, caps)
			continue
		}
		b = appendPacket(b, "want %s\n", want)
	}
	if r.depth > 0 {
		b = appendPacket(b, "deepen %d\n", r.depth)
	}
	if r.commitsOnly {
		b = appendPacket(b, "filter tree:0\n")
	}
	b = append(b, "0000"...)
	return appendPacket(b, "done\n")
}

// readPack returns the pack with which the server answers the request. What else it says goes to say, line by line.
func (r request) readPack(p packets, adv *advertisement, say func(string)) (io.Reader, error) {
	if adv.version2 {
		return readPack2(p, say)
	}
	if r.depth > 0 { // the commits whose parents are cut off, known without listening
		for n := 0; ; n++ {
			_, err := p.next()
			if err == errFlush {
				break
			}
			if err == nil && n == mostPackets {
				err = &malformed{"its list of shallow commits does not end"}
			}
			if err != nil {
				return nil, cut(err)
			}
		}
	}
	line, err := p.next()
	if err != nil {
		return nil, cut(err)
	}
	if !bytes.HasPrefix(line, []byte("NAK")) && !bytes.HasPrefix(line, []byte("ACK")) {
		return nil, &malformed{fmt.Sprintf("%.60q is not an acknowledgement", line)}
	}
	if adv.supports("side-band-64k", "side-band") {
		return &sideband{packets: p, progress: progress{say: say}}, nil
	}
	return p.r, nil
}

// sideband is the pack in an answer that has progress and errors besides.
type sideband struct {
	packets
	progress
	left  int // of the current packet
	idle  int // packets without a part of the pack
	heard int // bytes beside the pack
	end   bool
}

func (s *sideband) Read(buf []byte) (int, error) {
	for s.left == 0 {
		if s.end {
			return 0, io.EOF
		}
		if s.idle++; s.idle > mostPackets {
			return 0, errTalk
		}
		if err := s.advance(); err != nil {
			return 0, err
		}
	}
	n, err := s.r.Read(buf[:min(len(buf), s.left)])
	s.left -= n
	return n, cut(err)
}

// advance goes to the next packet with a part of the pack.
func (s *sideband) advance() error {
	n, err := s.length()
	if err == errFlush {
		s.end = true
		s.flush()
		return nil
	}
	if err != nil {
		return cut(err)
	}
	if n == 0 {
		return nil
	}
	band, err := s.r.ReadByte()
	if err != nil {
		return cut(err)
	}
	n--
	switch band {
	case 1:
		if s.left = n; n > 0 {
			s.idle--
		}
		return nil
	case 2:
		if s.heard += n; s.heard > mostProgress {
			return errTalk
		}
		text := make([]byte, n)
		if _, err := io.ReadFull(s.r, text); err != nil {
			return cut(err)
		}
		s.hear(text)
		return nil
	case 3:
		text := make([]byte, n)
		if _, err := io.ReadFull(s.r, text); err != nil {
			return cut(err)
		}
		s.flush()
		return &serverError{clean(text)}
	}
	return &malformed{fmt.Sprintf("%q is not one of the answer's bands", band)}
}
