package quote

import (
	"bytes"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON writes the same JSON with references in place of the characters that Line would show as escapes: it means the
// same to programs, and is fit to be shown.
func JSON(text []byte) []byte {
	var b bytes.Buffer
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == '\n' || r == '\t' || r == '\r' && i+1 < len(text) && text[i+1] == '\n':
			b.WriteByte(text[i])
		case r == '#' && loggingCommand(string(text[i:min(len(text), i+longestCommand)])), r != '#' && !Visible(r):
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		case r == utf8.RuneError:
			b.WriteRune(r)
		default:
			b.Write(text[i : i+size])
		}
		i += size
	}
	return b.Bytes()
}
