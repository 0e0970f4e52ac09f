package outcome

import "strings"

// Clip cuts a text that is longer than limit bytes to its beginning, and shows by an ellipsis that there was more.
func Clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
