package redact

// machine finds all of a set of values in one pass over a text, whose time does not depend on how many they are or how
// they overlap (Aho and Corasick). Its states are the beginnings of the values; 0 is the empty one. Values may be added
// at any time; states stay what they are.
type machine struct {
	states []state
	first  [256]int32 // the states of one byte: most bytes of a text begin no value
	whole  map[int32]bool
}

// state is the beginning of a value.
type state struct {
	char           byte  // its last
	child, sibling int32 // the first that is longer by a byte, and the next of the same length with the same beginning
	shorter        int32 // the longest that it ends with
	depth          int32 // its length
	found          int32 // length of the longest value that it ends with; 0: none
}

// add adds a value. prepare must follow.
func (m *machine) add(value string) {
	if m.states == nil {
		m.states = make([]state, 1)
		m.whole = map[int32]bool{}
	}
	at := int32(0)
	for i := range len(value) {
		next := m.child(at, value[i])
		if next == 0 {
			next = int32(len(m.states))
			m.states = append(m.states, state{char: value[i], sibling: m.states[at].child, depth: int32(i + 1)})
			m.states[at].child = next
			if at == 0 {
				m.first[value[i]] = next
			}
		}
		at = next
	}
	m.whole[at] = true
}

func (m *machine) child(of int32, char byte) int32 {
	for at := m.states[of].child; at != 0; at = m.states[at].sibling {
		if m.states[at].char == char {
			return at
		}
	}
	return 0
}

// prepare works out what states end with: the shorter ones first.
func (m *machine) prepare() {
	queue := []int32{0}
	for ; len(queue) > 0; queue = queue[1:] {
		parent := queue[0]
		for at := m.states[parent].child; at != 0; at = m.states[at].sibling {
			s := &m.states[at]
			s.shorter = 0
			if parent != 0 {
				s.shorter = m.next(m.states[parent].shorter, s.char)
			}
			s.found = m.states[s.shorter].found
			if m.whole[at] {
				s.found = s.depth
			}
			queue = append(queue, at)
		}
	}
}

// next is the state after one more byte.
func (m *machine) next(at int32, char byte) int32 {
	for at != 0 {
		if longer := m.child(at, char); longer != 0 {
			return longer
		}
		at = m.states[at].shorter
	}
	return m.first[char]
}

// occurs tells whether a value occurs in a text.
func (m *machine) occurs(text string) bool {
	if m.states == nil {
		return false
	}
	at := int32(0)
	for i := range len(text) {
		if at = m.next(at, text[i]); m.states[at].found > 0 {
			return true
		}
	}
	return false
}

// span is a part of a text, from a byte up to before another.
type span struct{ from, to int }

// stream masks a text that comes in pieces. It keeps what may be the beginning of a value, and no more.
type stream struct {
	at      int32
	kept    []byte
	hidden  []span // parts of kept, in their order; none touches another
	masking bool   // what was passed on last was the mask
}

// feed reads a piece, at last with its end, and appends to out what is known to go on.
func (k *stream) feed(m *machine, out, piece []byte, last bool) []byte {
	done := len(k.kept)
	k.kept = append(k.kept, piece...)
	k.scan(m, done)
	known := len(k.kept) - int(m.states[k.at].depth)
	if last {
		known, k.at = len(k.kept), 0
	}
	return k.pass(out, known)
}

// again reads once more what is kept, since the machine has got more values.
func (k *stream) again(m *machine) {
	k.at = 0
	k.scan(m, 0)
}

// scan finds values in what is kept, from a byte on.
func (k *stream) scan(m *machine, from int) {
	at := k.at
	for i := from; i < len(k.kept); i++ {
		if at == 0 && m.first[k.kept[i]] == 0 {
			continue
		}
		at = m.next(at, k.kept[i])
		if n := int(m.states[at].found); n > 0 {
			k.hide(span{i + 1 - n, i + 1})
		}
	}
	k.at = at
}

// hide notes a part to be masked, whose end is not before the ends of all others.
func (k *stream) hide(s span) {
	for n := len(k.hidden); n > 0 && k.hidden[n-1].to >= s.from; n-- {
		s.from, s.to = min(s.from, k.hidden[n-1].from), max(s.to, k.hidden[n-1].to)
		k.hidden = k.hidden[:n-1]
	}
	k.hidden = append(k.hidden, s)
}

// pass passes on the first known bytes of kept. Parts that touch each other are one mask.
func (k *stream) pass(out []byte, known int) []byte {
	done := 0
	plain := func(to int) {
		if to > done {
			out, done, k.masking = append(out, k.kept[done:to]...), to, false
		}
	}
	rest := k.hidden[:0]
	for _, s := range k.hidden {
		plain(min(s.from, known))
		if s.from < known {
			if !k.masking {
				out, k.masking = append(out, mask...), true
			}
			done = min(s.to, known)
		}
		if s.to > known {
			rest = append(rest, span{max(s.from, known) - known, s.to - known})
		}
	}
	plain(known)
	k.hidden = rest
	k.kept = append(k.kept[:0], k.kept[known:]...)
	return out
}
