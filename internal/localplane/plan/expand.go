package plan

import "strings"

// expand replaces $(NAME) in a variable's value or an argument as Kubernetes does: a name that is not defined stays as
// it is, and $$ is $.
func expand(text string, defined map[string]string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		if escaped, ok := strings.CutPrefix(rest, "$"); ok {
			out.WriteByte('$')
			text = escaped
			continue
		}
		if inside, ok := strings.CutPrefix(rest, "("); ok {
			if name, after, closed := strings.Cut(inside, ")"); closed {
				value, known := defined[name]
				if !known {
					value = "$(" + name + ")"
				}
				out.WriteString(value)
				text = after
				continue
			}
		}
		out.WriteByte('$')
		text = rest
	}
}
