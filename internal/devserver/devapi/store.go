package devapi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2/maybe"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"
)

// store keeps objects as files, dir/namespace/kind/name.yaml, for people to read and edit.
type store struct {
	dir string
}

var errName = errors.New("not a valid name")

func (s store) path(namespace string, kind Kind, name string) (string, error) {
	// Such names cannot lead out of the folder, nor hide in it.
	if len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "", errName
	}
	return filepath.Join(s.dir, namespace, string(kind), name+".yaml"), nil
}

// read returns an object; nil when there is none.
func (s store) read(namespace string, kind Kind, name string) (map[string]any, error) {
	path, err := s.path(namespace, kind, name)
	if err != nil {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o, err := decodeYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return o, nil
}

func (s store) write(namespace string, kind Kind, name string, o map[string]any) error {
	path, err := s.path(namespace, kind, name)
	if err != nil {
		return err
	}
	raw, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return maybe.WriteFile(path, raw, 0o644)
}

// remove removes an object, if it is there.
func (s store) remove(namespace string, kind Kind, name string) error {
	path, err := s.path(namespace, kind, name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// namespaces returns the names of the folders that namespaces have.
func (s store) namespaces() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && len(validation.IsDNS1123Label(e.Name())) == 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// list returns the objects of a kind, sorted by name.
func (s store) list(namespace string, kind Kind) ([]map[string]any, error) {
	if len(validation.IsDNS1123Label(namespace)) > 0 {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, namespace, string(kind)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	slices.Sort(names) // by file name, a-b.yaml would come before a.yaml
	var all []map[string]any
	for _, name := range names {
		o, err := s.read(namespace, kind, name)
		if err != nil {
			return nil, err
		}
		if o != nil {
			all = append(all, o)
		}
	}
	return all, nil
}

func decodeYAML(raw []byte) (map[string]any, error) {
	raw, err := yaml.YAMLToJSON(raw)
	if err != nil {
		return nil, err
	}
	var o map[string]any
	return o, utiljson.Unmarshal(raw, &o)
}

// object is a value as an object; nil, which can be read, when it is none.
func object(v any) map[string]any {
	o, _ := v.(map[string]any)
	return o
}
