package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// writer writes trees as YAML with the actions of Helm's templates.
type writer struct {
	bytes.Buffer
	version string
}

// mark stands for a setting in a text. It has nothing that ends a word in YAML, JSON, CEL or kustomize's delimiters.
func mark(setting string) string { return "⟦" + setting + "⟧" }

var marks = regexp.MustCompile(`⟦[a-z0-9-]+⟧`)

// setting is the action that inserts a setting.
func setting(mark string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(mark, "⟦"), "⟧")
	return fmt.Sprintf(`include "stepwright.setting" (index .Values.settings %q)`, name)
}

func condition(component string) string { return fmt.Sprintf(`index .Values.components %q`, component) }

// chosen writes a tree, or both of a choice between actions; the second may be a choice again.
func (w *writer) chosen(t tree, write func(tree)) {
	c, ok := t.(choice)
	switch {
	case !ok:
		write(t)
		return
	case c.with == nil:
		fmt.Fprintf(w, "{{- if not (%s) }}\n", condition(c.component))
		write(c.without)
	default:
		fmt.Fprintf(w, "{{- if %s }}\n", condition(c.component))
		write(c.with)
		if c.without != nil {
			w.WriteString("{{- else }}\n")
			w.chosen(c.without, write)
		}
	}
	w.WriteString("{{- end }}\n")
}

// mapping writes the entries of a mapping, each line indented.
func (w *writer) mapping(m mapping, indent string) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		w.chosen(m[key], func(t tree) {
			w.WriteString(indent + scalar(key) + ":")
			switch t := t.(type) {
			case mapping:
				if len(t) > 0 {
					w.WriteString("\n")
					w.mapping(t, indent+"  ")
					return
				}
			case sequence:
				if len(t) > 0 {
					w.WriteString("\n")
					w.sequence(t, indent)
					return
				}
			}
			w.inline(t, indent+"  ")
		})
	}
}

func (w *writer) sequence(s sequence, indent string) {
	for _, element := range s {
		w.chosen(element, func(t tree) {
			w.WriteString(indent + "-")
			if m, ok := t.(mapping); ok && len(m) > 0 {
				w.WriteString("\n")
				w.mapping(m, indent+"  ")
				return
			}
			if inner, ok := t.(sequence); ok && len(inner) > 0 {
				w.WriteString("\n")
				w.sequence(inner, indent+"  ")
				return
			}
			w.inline(t, indent+"  ")
		})
	}
	if components := onlyOf(s); len(components) > 0 {
		var conditions []string
		for _, component := range components {
			conditions = append(conditions, "("+condition(component)+")")
		}
		fmt.Fprintf(w, "{{- if not (or %s) }}\n%s  []\n{{- end }}\n", strings.Join(conditions, " "), indent)
	}
}

// onlyOf are the components without which a sequence is empty; none if it never is.
func onlyOf(s sequence) (components []string) {
	for _, element := range s {
		for element != nil {
			c, ok := element.(choice)
			if !ok || c.with == nil {
				return nil
			}
			components, element = append(components, c.component), c.without
		}
	}
	return components
}

// inline writes what follows a key or a dash on its line. A text of several lines goes on below, indented.
func (w *writer) inline(t tree, indent string) {
	switch t := t.(type) {
	case mapping:
		w.WriteString(" {}\n")
	case sequence:
		w.WriteString(" []\n")
	case leaf:
		w.WriteString(" " + w.leaf(t, indent) + "\n")
	}
}

var image = regexp.MustCompile(`\Aghcr\.io/stepwright/([a-z-]+):(.*)\z`)

func (w *writer) leaf(l leaf, indent string) string {
	_, wasText := l.value.(string)
	whole := marks.FindString(l.text)
	switch parts := image.FindStringSubmatch(l.text); {
	case parts != nil && parts[2] == w.version:
		return fmt.Sprintf(`{{ include "stepwright.image" (list . %q) | quote }}`, parts[1])
	case whole != "" && whole == l.text && wasText:
		return "{{ " + setting(whole) + " | quote }}"
	case whole != "" && whole == l.text:
		return "{{ " + setting(whole) + " }}"
	case whole != "":
		text := marks.ReplaceAllStringFunc(escaped(l.text), func(mark string) string {
			return "{{ " + setting(mark) + " }}"
		})
		return block(text, indent)
	case wasText:
		if strings.Contains(l.text, "\n") && plainBlock(l.text) {
			return block(escaped(l.text), indent)
		}
		return escaped(scalar(l.text))
	}
	return scalar(l.value)
}

// escaped is a text in which Helm finds no action: what Argo replaces begins like one.
func escaped(text string) string { return strings.ReplaceAll(text, "{{", `{{ "{{" }}`) }

// plainBlock tells whether a text can be a literal block of YAML: others are quoted.
func plainBlock(text string) bool {
	return !strings.HasPrefix(text, " ") && !strings.HasPrefix(text, "\n") && !strings.HasSuffix(text, "\n\n") &&
		!strings.ContainsAny(text, "\t\r\x00\x1b")
}

// block is a text as a literal block of YAML.
func block(text, indent string) string {
	head := "|-"
	if strings.HasSuffix(text, "\n") {
		head = "|"
		text = strings.TrimSuffix(text, "\n")
	}
	var b strings.Builder
	b.WriteString(head)
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString("\n")
		if line != "" {
			b.WriteString(indent + line)
		}
	}
	return b.String()
}

var plain = regexp.MustCompile(`\A[A-Za-z][A-Za-z0-9/._-]*\z`)

// scalar is a value in one line of YAML.
func scalar(value any) string {
	if text, ok := value.(string); ok && plain.MatchString(text) {
		var read any
		if err := yaml.Unmarshal([]byte(text), &read); err == nil && read == value {
			return text
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(value); err != nil {
		panic(err) // values are what YAML was read into
	}
	return strings.TrimSpace(b.String())
}
