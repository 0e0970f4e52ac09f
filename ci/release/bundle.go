package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/stepwright/stepwright/internal/kustomization"
	"github.com/stepwright/stepwright/templates"
)

// bundle builds kustomizations and returns one file for each plane: <plane>-plane.yaml to its text.
func bundle(dirs []string, digests string) (map[string][]byte, error) {
	planes := map[string]*bytes.Buffer{}
	for _, dir := range dirs {
		built, err := kustomization.Build(dir)
		if err != nil {
			return nil, err
		}
		for _, r := range built.Resources() {
			plane := r.GetLabels()[templates.PlaneLabel]
			if plane == "" {
				return nil, fmt.Errorf("%s: %s %s lacks the label %s",
					dir, r.GetKind(), r.GetName(), templates.PlaneLabel)
			}
			object, err := r.Map()
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", dir, r.GetName(), err)
			}
			if digests != "" {
				if err := pin(object, digests); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", dir, r.GetName(), err)
				}
			}
			text, err := yaml.Marshal(object)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", dir, r.GetName(), err)
			}
			b := planes[plane]
			if b == nil {
				b = &bytes.Buffer{}
				planes[plane] = b
			} else {
				b.WriteString("---\n")
			}
			b.Write(text)
		}
	}
	files := map[string][]byte{}
	for plane, b := range planes {
		files[plane+"-plane.yaml"] = b.Bytes()
	}
	return files, nil
}

// pin adds the digest to every image at any depth that has a layout in digests. An image that has none keeps its tag
// alone.
func pin(v any, digests string) error {
	switch v := v.(type) {
	case []any:
		for _, inner := range v {
			if err := pin(inner, digests); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, inner := range v {
			image, isText := inner.(string)
			if key != "image" || !isText || strings.Contains(image, "@") {
				if err := pin(inner, digests); err != nil {
					return err
				}
				continue
			}
			name, _, _ := strings.Cut(path.Base(image), ":")
			digest, err := digestOf(filepath.Join(digests, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			v[key] = image + "@" + digest
		}
	}
	return nil
}

// digestOf is the digest that the image of a layout has in a registry.
func digestOf(layout string) (string, error) {
	file := filepath.Join(layout, "index.json")
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var index struct {
		Manifests []struct {
			Digest string `json:"digest"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if len(index.Manifests) != 1 {
		return "", fmt.Errorf("%s: has %d manifests, want one", file, len(index.Manifests))
	}
	return index.Manifests[0].Digest, nil
}
