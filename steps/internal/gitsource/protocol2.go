package gitsource

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// This is version 2 of the protocol, gitprotocol-v2(5), for servers that answer with it unasked. It is not asked for:
// it takes one more round trip than version 0.

// readCapabilities reads what a server of version 2 announces, and notes it by the names that version 0 has.
func (a *advertisement) readCapabilities(p packets) error {
	a.version2 = true
	for {
		line, err := p.next()
		if err == errFlush {
			break
		}
		if err != nil {
			return cut(err)
		}
		if len(a.capabilities) > mostCapabilities {
			return &malformed{fmt.Sprintf("it has more than %d capabilities", mostCapabilities)}
		}
		name, value, _ := strings.Cut(string(line), "=")
		a.capabilities[name] = value
	}
	if !a.supports("ls-refs") || !a.supports("fetch") {
		return &malformed{"its protocol version 2 has no ls-refs or no fetch"}
	}
	for feature := range strings.FieldsSeq(a.capabilities["fetch"]) {
		a.capabilities[feature] = "" // shallow, filter
	}
	a.capabilities["allow-any-sha1-in-want"] = "" // part of version 2
	return a.checkFormat()
}

// command begins a request of version 2. Its arguments, a flush packet and nothing else come after it.
func (a *advertisement) command(name string) []byte {
	b := appendPacket(nil, "command=%s\n", name)
	if a.supports("agent") {
		b = appendPacket(b, "agent=%s\n", agent)
	}
	if a.supports("object-format") {
		b = appendPacket(b, "object-format=sha1\n")
	}
	return append(b, "0001"...)
}

// listRefs is the request for the server's references.
func (a *advertisement) listRefs() []byte {
	b := appendPacket(appendPacket(a.command("ls-refs"), "peel\n"), "symrefs\n")
	return append(b, "0000"...)
}

// readRefs reads the answer to listRefs.
func (a *advertisement) readRefs(p packets) error {
	for {
		line, err := p.next()
		if err == errFlush {
			return nil
		}
		if err != nil {
			return cut(err)
		}
		fields := strings.Split(string(line), " ")
		var r ref
		if fields[0] == "unborn" {
			continue
		}
		if len(fields) < 2 || !decodeHash(&r.hash, fields[0]) {
			return &malformed{fmt.Sprintf("%.60q is not a reference", line)}
		}
		r.name = fields[1]
		for _, attribute := range fields[2:] {
			if target, ok := strings.CutPrefix(attribute, "symref-target:"); ok && r.name == "HEAD" {
				a.capabilities["symref"] = "HEAD:" + target
			}
			if peeled, ok := strings.CutPrefix(attribute, "peeled:"); ok && !decodeHash(&r.peeled, peeled) {
				return &malformed{fmt.Sprintf("%.60q is not a reference", line)}
			}
		}
		if err := a.add(r); err != nil {
			return err
		}
	}
}

// encode2 is encode for version 2.
func (r request) encode2(adv *advertisement) []byte {
	b := adv.command("fetch")
	for _, argument := range []string{"no-progress", "ofs-delta", "include-tag"} {
		b = appendPacket(b, "%s\n", argument)
	}
	if r.depth > 0 {
		b = appendPacket(b, "deepen %d\n", r.depth)
	}
	if r.commitsOnly {
		b = appendPacket(b, "filter tree:0\n")
	}
	for _, want := range r.wants {
		b = appendPacket(b, "want %s\n", want)
	}
	return append(appendPacket(b, "done\n"), "0000"...)
}

// readPack2 is readPack for version 2: the sections before the pack are known without listening.
func readPack2(p packets, say func(string)) (io.Reader, error) {
	for n := 0; ; n++ {
		line, err := p.next()
		if err == errFlush || n == mostPackets {
			return nil, &malformed{"its answer has no pack"}
		}
		if err != nil && err != errDelimiter {
			return nil, cut(err)
		}
		if bytes.Equal(line, []byte("packfile")) {
			return &sideband{packets: p, progress: progress{say: say}}, nil
		}
	}
}
