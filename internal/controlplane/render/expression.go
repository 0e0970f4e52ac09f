package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
)

// engine evaluates the expressions ${…} of templates.
type engine struct {
	env     *cel.Env
	context map[string]any
}

func newEngine(context map[string]any) (*engine, error) {
	env, err := newEnv(slices.Collect(maps.Keys(context)))
	return &engine{env, context}, err
}

// render evaluates every expression in a value, in the keys of its objects, too, and drops what oc_omit() stands for.
func (e *engine) render(path []string, value any) (any, error) {
	switch value := value.(type) {
	case string:
		return e.text(path, value)
	case map[string]any:
		out := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			at := append(path, key)
			name, err := e.text(at, key)
			if err != nil {
				return nil, err
			}
			if _, ok := name.(string); !ok {
				return nil, fail(at, "the key %s is %s, and must be text", key, kindOf(name))
			}
			inner, err := e.render(at, value[key])
			if err != nil {
				return nil, err
			}
			if inner != omitted {
				out[name.(string)] = inner
			}
		}
		return out, nil
	case []any:
		out := make([]any, 0, len(value))
		for i, item := range value {
			inner, err := e.render(append(path, strconv.Itoa(i)), item)
			if err != nil {
				return nil, err
			}
			if inner != omitted {
				out = append(out, inner)
			}
		}
		return out, nil
	}
	return value, nil
}

// text evaluates the expressions in a text. One that is the whole text keeps its type; others are written into the
// text.
func (e *engine) text(path []string, text string) (any, error) {
	expressions, err := findExpressions(text)
	if err != nil {
		return nil, fail(path, "%w", err)
	}
	if len(expressions) == 1 && expressions[0] == strings.TrimSpace(text) {
		return e.evaluate(path, expressions[0])
	}
	for _, expression := range expressions {
		value, err := e.evaluate(path, expression)
		if err != nil {
			return nil, err
		}
		// The first occurrence is not always this one: what was written in before may hold the same expression. So does
		// the controller.
		text = strings.Replace(text, expression, interpolated(value), 1)
	}
	return text, nil
}

func (e *engine) evaluate(path []string, expression string) (any, error) {
	checked, issues := e.env.Compile(expression[len("${") : len(expression)-len("}")])
	if issues.Err() != nil {
		return nil, fail(path, "%s: %w", expression, issues.Err())
	}
	program, err := e.env.Program(checked)
	if err != nil {
		return nil, fail(path, "%s: %w", expression, err)
	}
	result, _, err := program.Eval(e.context)
	if err != nil {
		return nil, fail(path, "%s: %w", expression, err)
	}
	return native(result), nil
}

// interpolated writes a value into a text.
func interpolated(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case float64:
		return fmt.Sprintf("%g", value)
	case int64, bool:
		return fmt.Sprint(value)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}

var errNested = errors.New("an expression inside another must be quoted")

// findExpressions cuts the expressions ${…} out of a text. Braces nest, but for those in quotes; one that is not closed
// is plain text, and so is all that follows it.
func findExpressions(text string) ([]string, error) {
	var found []string
	for {
		start := strings.Index(text, "${")
		if start < 0 {
			return found, nil
		}
		text = text[start:]
		end, err := expressionEnd(text)
		if err != nil {
			return nil, err
		}
		if end < 0 {
			return found, nil
		}
		found = append(found, text[:end])
		text = text[end:]
	}
}

// expressionEnd returns the length of the expression that a text begins with; less than 0 when it is not closed.
func expressionEnd(text string) (int, error) {
	var quote byte // that of the string we are in
	escaped := false
	depth := 1
	for i := len("${"); i < len(text); i++ {
		c := text[i]
		if quote != 0 {
			switch {
			case c == '\\':
				escaped = !escaped
				continue
			case c == quote && !escaped:
				quote = 0
			}
			escaped = false
			continue
		}
		switch c {
		case '\'', '"':
			quote = c
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i + 1, nil
			}
		case '$':
			if strings.HasPrefix(text[i:], "${") {
				return 0, fmt.Errorf("%w: %s", errNested, text[:i+len("${")])
			}
		}
	}
	return -1, nil
}
