// Package parameters reads a step's parameters. Their names, types, defaults and meaning stand in the step's JSON
// Schema and nowhere else: the property git-repo is the flag --git-repo and the variable GIT_REPO.
package parameters

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/schemas"
)

// ErrHelp says that --help was asked for.
var ErrHelp = errors.New("help requested")

// Set is the parameters of one run of a step.
type Set struct {
	schema *schemas.Schema
	values map[string]any
}

// Parse reads flags and variables (KEY=value). A flag wins over the variable, the variable over the default; what is
// empty counts as not given, since a template passes every variable always. Text is turned into the type that the
// schema asks for, in the forms in which OpenChoreo delivers it (docs/contract.md section 2), and the whole is
// validated. A text that begins with "base64:", alone or inside a list, is decoded first.
//
// The error is ErrHelp, or an outcome.Error of reason InvalidParameters that lists every fault. The Set is usable in
// any case.
func Parse(schema *schemas.Schema, args, environ []string) (*Set, error) {
	s := &Set{schema: schema, values: map[string]any{}}
	given := map[string]string{}
	for _, p := range schema.Properties {
		for _, kv := range environ {
			if v, ok := strings.CutPrefix(kv, schemas.EnvName(p.Name)+"="); ok {
				given[p.Name] = v
			}
		}
	}
	faults, help := s.flags(args, given)
	for _, p := range schema.Properties {
		if text := given[p.Name]; text != "" {
			v, err := read(p, text)
			if err != nil {
				faults = append(faults, fmt.Sprintf("%s: %v", p.Name, err))
			} else if v != nil {
				s.values[p.Name] = v
			}
		}
	}
	s.values = schema.WithDefaults(s.values)
	if help {
		return s, ErrHelp
	}
	for _, f := range schema.Validate(s.values) {
		faults = append(faults, f.String())
	}
	if len(faults) == 0 {
		return s, nil
	}
	return s, outcome.Invalid(faults...)
}

// flags reads --name value, --name=value and, for booleans, --name into given.
func (s *Set) flags(args []string, given map[string]string) (faults []string, help bool) {
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name == "-h" || name == "--help" || name == "-help" {
			return nil, true
		}
		bare, isFlag := strings.CutPrefix(name, "--")
		if !isFlag {
			faults = append(faults, fmt.Sprintf("%q is not a flag (flags are --name=value; see --help)", name))
			continue
		}
		p := s.property(bare)
		switch {
		case p == nil:
			faults = append(faults, fmt.Sprintf("%s: there is no such flag%s", name, s.nearest(bare)))
			if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++ // the next argument is most likely its value
			}
			continue
		case p.WriteOnly:
			faults = append(
				faults,
				fmt.Sprintf(
					"%s: is a secret, which a command line would show to everybody on this machine; give it as the "+
						"variable %s",
					name, schemas.EnvName(p.Name),
				),
			)
			if !hasValue && i+1 < len(args) {
				i++ // nor may a later message quote it
			}
			continue
		case hasValue:
		case p.Type == "boolean":
			value = "true"
		case i+1 < len(args):
			i++
			value = args[i]
		default:
			faults = append(faults, name+": needs a value")
			continue
		}
		given[p.Name] = value
	}
	return faults, false
}

func (s *Set) property(name string) *schemas.Property {
	i := slices.IndexFunc(s.schema.Properties, func(p *schemas.Property) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return s.schema.Properties[i]
}

// nearest suggests a flag for a name that does not exist.
func (s *Set) nearest(name string) string {
	best, least := "", len(name)/2+1
	for _, p := range s.schema.Properties {
		if d := levenshtein.Distance(name, p.Name, nil); d < least {
			best, least = p.Name, d
		}
	}
	if best == "" {
		return " (see --help)"
	}
	return fmt.Sprintf(" (did you mean --%s?)", best)
}

// read turns the text that was given for a property into its value; nil when it counts as not given.
func read(p *schemas.Property, text string) (any, error) {
	plain, err := decode(text)
	if err != nil || plain == "" {
		return nil, err
	}
	v := coerce(p, plain)
	if _, isText := v.(string); isText || plain != text {
		return v, nil // what was encoded as a whole has nothing encoded inside
	}
	v, err = decodeInside(v)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// encoded begins a text that travels in base64. Argo expands {{…}} in the values of all parameters, so
// the ClusterWorkflow encodes every text of a developer in which it would find one.
const encoded = "base64:"

// decode returns a text as its author wrote it.
func decode(text string) (string, error) {
	code, ok := strings.CutPrefix(text, encoded)
	if !ok {
		return text, nil
	}
	plain, err := base64.StdEncoding.DecodeString(code)
	if err != nil {
		return "", fmt.Errorf("begins with %q and does not go on in base64: %w", encoded, err)
	}
	if !utf8.Valid(plain) {
		return "", fmt.Errorf("begins with %q and does not go on with the base64 of a text in UTF-8", encoded)
	}
	return string(plain), nil
}

// decodeInside decodes the texts of a list or object, names included, and may change it.
func decodeInside(value any) (any, error) {
	var err error
	switch v := value.(type) {
	case string:
		return decode(v)
	case []any:
		for i := range v {
			if v[i], err = decodeInside(v[i]); err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
		}
	case map[string]any:
		plain := make(map[string]any, len(v))
		for k, inner := range v {
			name, err := decode(k)
			if err != nil {
				return nil, err
			}
			if plain[name], err = decodeInside(inner); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return plain, nil
	}
	return value, nil
}

// coerce reads a text as the type that the property has. What cannot be read stays text, for the schema to refuse; null
// is nil.
func coerce(p *schemas.Property, text string) any {
	switch p.Type {
	case "string":
		return text
	case "boolean":
		switch strings.ToLower(text) {
		case "true":
			return true
		case "false":
			return false
		}
	case "integer":
		// A large number arrives as 1e+06.
		if f, err := strconv.ParseFloat(text, 64); err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return json.Number(strconv.FormatInt(int64(f), 10))
		}
	case "number":
		if _, err := strconv.ParseFloat(text, 64); err == nil {
			return json.Number(text)
		}
	}
	if p.Type == "array" || p.Type == "object" || text == "null" {
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil && !dec.More() {
			return p.Soften(v)
		}
	}
	return text
}

// Decode fills a struct whose json tags are the schema's property names. A property without a field is an error.
func (s *Set) Decode(into any) error { return s.decode(into, true) }

// DecodeKnown fills those fields of a struct that the set has, and leaves what does not fit: for the few parameters
// that are needed even when others are wrong.
func (s *Set) DecodeKnown(into any) { _ = s.decode(into, false) }

func (s *Set) decode(into any, strict bool) error {
	raw, err := json.Marshal(s.values)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if strict {
		dec.DisallowUnknownFields()
	}
	return dec.Decode(into)
}

// Secrets are the values of properties that are writeOnly.
func (s *Set) Secrets() []string {
	var secrets []string
	for _, p := range s.schema.Properties {
		if v, ok := s.values[p.Name]; ok && p.WriteOnly {
			secrets = append(secrets, schemas.Text(v))
		}
	}
	return secrets
}

// Effective lists names and values, in pairs for a logger, of every parameter that has another value than its default.
// Secrets are left out, and so is what may be secret in a URL.
func (s *Set) Effective() []any {
	var pairs []any
	for _, p := range s.schema.Properties {
		v, ok := s.values[p.Name]
		if !ok || p.WriteOnly || schemas.Text(v) == schemas.Text(p.Default) {
			continue
		}
		text := schemas.Text(v)
		if p.Type == "string" {
			text = redact.URL(text)
		}
		pairs = append(pairs, p.Name, text)
	}
	return pairs
}
