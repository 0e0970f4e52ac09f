package gitsource

import "strings"

// wildmatch tells whether a pattern of Git's matches all of a text, as wildmatch.c does. In paths, * and ? stop at a
// slash and ** does not.
func wildmatch(pattern, text string, paths bool) bool { return wild(pattern, text, paths) == matched }

// How a comparison ends. That the text is too short for what comes after an asterisk is true for all that the asterisks
// before it could take, too: without knowing that, a pattern of many asterisks takes for ever.
type ending int

const (
	matched ending = iota
	unmatched
	pastSlash // an asterisk would have to go beyond a slash
	pastEnd
)

func wild(pattern, text string, paths bool) ending {
	for i := 0; i < len(pattern); i++ {
		c := pattern[i]
		if text == "" && c != '*' {
			return pastEnd
		}
		switch c {
		case '*':
			return star(pattern, i, text, paths)
		case '?':
			if paths && text[0] == '/' {
				return unmatched
			}
		case '[':
			ok, end := class(pattern[i:], text[0])
			if !ok || paths && text[0] == '/' {
				return unmatched
			}
			i += end
		case '\\':
			if i++; i == len(pattern) || pattern[i] != text[0] {
				return unmatched
			}
		default:
			if c != text[0] {
				return unmatched
			}
		}
		text = text[1:]
	}
	if text != "" {
		return unmatched
	}
	return matched
}

// star compares from the asterisks at i on.
func star(pattern string, i int, text string, paths bool) ending {
	rest := strings.TrimLeft(pattern[i:], "*")
	before := i == 0 || pattern[i-1] == '/'
	after := rest == "" || rest[0] == '/' || strings.HasPrefix(rest, `\/`)
	deep := !paths
	if paths && len(pattern)-i-len(rest) > 1 && before && after {
		deep = true
		// a/**/b is a/b, too.
		if rest != "" && rest[0] == '/' {
			if end := wild(rest[1:], text, paths); end == matched || end == pastEnd {
				return end
			}
		}
	}
	if rest == "" {
		if !deep && strings.Contains(text, "/") {
			return unmatched
		}
		return matched
	}
	for ; text != ""; text = text[1:] {
		end := wild(rest, text, paths)
		if end != unmatched && (!deep || end != pastSlash) {
			return end
		}
		if end == unmatched && !deep && text[0] == '/' {
			return pastSlash
		}
	}
	return pastEnd
}

// class tells whether a bracket expression at the pattern's beginning has a character, and where it ends.
func class(pattern string, c byte) (found bool, end int) {
	i := 1
	negated := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negated {
		i++
	}
	for first := true; ; first = false {
		if i >= len(pattern) {
			return false, 0
		}
		if pattern[i] == ']' && !first {
			return found != negated, i
		}
		if name, _, ok := strings.Cut(pattern[i:], ":]"); ok && strings.HasPrefix(name, "[:") {
			in, known := classes[name[2:]]
			if !known {
				return false, 0
			}
			found = found || in(c)
			i += len(name) + 2
			continue
		}
		low := pattern[i]
		if low == '\\' {
			if i++; i >= len(pattern) {
				return false, 0
			}
			low = pattern[i]
		}
		high := low
		if i+2 < len(pattern) && pattern[i+1] == '-' && pattern[i+2] != ']' {
			if i += 2; pattern[i] == '\\' {
				if i++; i >= len(pattern) {
					return false, 0
				}
			}
			high = pattern[i]
		}
		found = found || low <= c && c <= high
		i++
	}
}

func between(low, high byte) func(byte) bool {
	return func(c byte) bool { return low <= c && c <= high }
}

func either(any ...func(byte) bool) func(byte) bool {
	return func(c byte) bool {
		for _, in := range any {
			if in(c) {
				return true
			}
		}
		return false
	}
}

var (
	lower = between('a', 'z')
	upper = between('A', 'Z')
	digit = between('0', '9')
	alpha = either(lower, upper)
	punct = either(between('!', '/'), between(':', '@'), between('[', '`'), between('{', '~'))
	blank = func(c byte) bool { return c == ' ' || c == '\t' }
)

var classes = map[string]func(byte) bool{
	"alnum": either(alpha, digit), "alpha": alpha, "blank": blank, "digit": digit, "lower": lower, "upper": upper,
	"punct": punct, "cntrl": either(between(0, 31), between(127, 127)), "graph": between('!', '~'),
	"print": between(' ', '~'), "space": either(blank, between('\n', '\r')),
	"xdigit": either(digit, between('a', 'f'), between('A', 'F')),
}
