package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
)

// Programs keeps compiled expressions from one Render to the next, for a caller that renders many runs of a workflow.
// The zero value is ready, and may be in use by several goroutines. It keeps every expression that it has seen.
type Programs struct {
	compiled sync.Map // scope and expression to cel.Program
}

// costLimit is what the expressions of a run, and each of them, may cost in CEL's units, which are about one for each
// look and call, and one for ten characters: the default of celCostLimit in OpenChoreo's chart.
const costLimit = 2_000_000

// engine evaluates the expressions ${…} of templates.
type engine struct {
	env      func() (*cel.Env, error)
	context  map[string]any
	scope    string // names of what the context holds
	programs *Programs
	cost     uint64 // of what was evaluated, in CEL's units
}

func newEngine(programs *Programs, context map[string]any) *engine {
	if programs == nil {
		programs = new(Programs)
	}
	variables := slices.Sorted(maps.Keys(context))
	return &engine{
		env:     sync.OnceValues(func() (*cel.Env, error) { return newEnv(variables) }),
		context: context, scope: strings.Join(variables, " "), programs: programs,
	}
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
	program, err := e.compile(expression)
	if err != nil {
		return nil, fail(path, "%s: %w", expression, err)
	}
	result, details, err := program.Eval(e.context)
	if err != nil {
		return nil, fail(path, "%s: %w", expression, err)
	}
	if cost := details.ActualCost(); cost != nil {
		e.cost += *cost
	}
	if e.cost > costLimit {
		return nil, fail(path, "%s: with this the run's expressions cost %d of CEL's units, and OpenChoreo allows %d "+
			"(celCostLimit) from 1.2.4 on", expression, e.cost, uint64(costLimit))
	}
	return native(result), nil
}

func (e *engine) compile(expression string) (cel.Program, error) {
	key := e.scope + "\n" + expression
	if program, ok := e.programs.compiled.Load(key); ok {
		return program.(cel.Program), nil
	}
	env, err := e.env()
	if err != nil {
		return nil, err
	}
	checked, issues := env.Compile(expression[len("${") : len(expression)-len("}")])
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	program, err := env.Program(checked, cel.CostTracking(nil), cel.CostLimit(costLimit))
	if err != nil {
		return nil, err
	}
	e.programs.compiled.Store(key, program)
	return program, nil
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
