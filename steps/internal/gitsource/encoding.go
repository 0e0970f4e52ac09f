package gitsource

import (
	"strings"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/ianaindex"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
)

// encodingOf returns the encoding of a name that iconv knows, as commits and .gitattributes have them. Nil stands for
// UTF-8; false for one that is unknown.
func encodingOf(name string) (encoding.Encoding, bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "utf-8", "utf8":
		return nil, true
	case "latin1", "latin-1":
		return charmap.ISO8859_1, true
	// Without a word on it, the C library writes a mark and the machine's own order.
	case "utf-16", "utf16", "utf-16le-bom":
		return unicode.UTF16(unicode.LittleEndian, unicode.UseBOM), true
	case "utf-16be-bom":
		return unicode.UTF16(unicode.BigEndian, unicode.UseBOM), true
	case "utf-16le", "utf16le":
		return unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), true
	case "utf-16be", "utf16be":
		return unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), true
	case "utf-32", "utf32", "utf-32le-bom":
		return utf32.UTF32(utf32.LittleEndian, utf32.UseBOM), true
	case "utf-32be-bom":
		return utf32.UTF32(utf32.BigEndian, utf32.UseBOM), true
	case "utf-32le", "utf32le":
		return utf32.UTF32(utf32.LittleEndian, utf32.IgnoreBOM), true
	case "utf-32be", "utf32be":
		return utf32.UTF32(utf32.BigEndian, utf32.IgnoreBOM), true
	}
	for _, candidate := range []string{name, shortNames.Replace(name)} {
		if e, err := ianaindex.IANA.Encoding(candidate); err == nil && e != nil {
			return e, true
		}
	}
	return nil, false
}

// shortNames turns iconv's short names into those of IANA.
var shortNames = strings.NewReplacer(
	"iso8859", "iso-8859", "cp125", "windows-125", "sjis", "shift_jis", "shift-jis", "shift_jis", "eucjp", "euc-jp",
	"euckr", "euc-kr", "euccn", "gb2312", "koi8r", "koi8-r", "koi8u", "koi8-u",
)
