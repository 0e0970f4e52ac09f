package openchoreo

import (
	"bytes"
	"encoding/json"
	"maps"
)

// Object is an object of the API as it was received: unknown fields survive a read and a write.
// Numbers are json.Number.
type Object map[string]any

// Decode reads an object from JSON.
func Decode(raw []byte) (Object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var o Object
	return o, dec.Decode(&o)
}

// Encode writes the object as it is sent: compact, its keys sorted, and without the escapes that are for HTML only.
func (o Object) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Name is the object's metadata.name.
func (o Object) Name() string { return o.Text("metadata", "name") }

// Text is the text at a path of keys; empty when there is none.
func (o Object) Text(path ...string) string {
	last := len(path) - 1
	text, _ := o.At(path[:last]...)[path[last]].(string)
	return text
}

// At is the object at a path of keys; nil, which can be read, when there is none.
func (o Object) At(path ...string) map[string]any {
	at := map[string]any(o)
	for _, key := range path {
		at, _ = at[key].(map[string]any)
	}
	return at
}

// With returns a copy in which the value at a path of keys is another. The objects on the way are copied, or made when
// absent; all others are shared with o.
func (o Object) With(value any, path ...string) Object {
	return with(o, value, path)
}

func with(o map[string]any, value any, path []string) map[string]any {
	changed := maps.Clone(o)
	if changed == nil {
		changed = map[string]any{}
	}
	if len(path) == 1 {
		changed[path[0]] = value
		return changed
	}
	inner, _ := o[path[0]].(map[string]any)
	changed[path[0]] = with(inner, value, path[1:])
	return changed
}
