package signature

import (
	"bytes"
	"encoding/json"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// AboutToo is an in-toto statement with one more subject. One statement and subject give the same bytes each time.
func AboutToo(statement []byte, image v1.Hash) ([]byte, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(statement, &doc); err != nil {
		return nil, err
	}
	var subjects []json.RawMessage
	if err := json.Unmarshal(doc["subject"], &subjects); err != nil {
		return nil, err
	}
	one, err := json.Marshal(map[string]any{"name": "_", "digest": map[string]string{image.Algorithm: image.Hex}})
	if err != nil {
		return nil, err
	}
	if doc["subject"], err = json.Marshal(append(subjects, one)); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // what is in the predicate stays as it is
	if err := encoder.Encode(doc); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(text.Bytes()), nil
}
