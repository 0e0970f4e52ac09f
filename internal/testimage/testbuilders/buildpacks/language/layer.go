package language

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/buildpacks/libcnb"
)

// A Layer is a folder that a buildpack fills. It is made anew when its key is another than that of the layer from the
// cache.
type Layer struct {
	ID     string
	Launch bool   // part of the image
	Cache  bool   // kept for the next build
	Key    string // names the layer's sources; empty: made, or brought up to date, each time

	// Make fills the folder. It is empty, but for the cached content of a layer without a key.
	Make func(dir string) error

	// Components returns the folder's components, for the bill of materials of a layer that is part of the image.
	Components func(dir string) ([]Component, error)

	variables map[string]string
	language  string
}

const keyEntry = "key"

// Name is the layer's name below the buildpack's.
func (l Layer) Name() string { return l.ID }

// Contribute makes the layer, or takes it from the cache.
func (l Layer) Contribute(layer libcnb.Layer) (libcnb.Layer, error) {
	_, err := os.Stat(layer.Path)
	there := err == nil
	switch {
	case there && l.Key != "" && layer.Metadata[keyEntry] == l.Key:
		fmt.Printf("%s: reusing layer %s from the cache\n", l.language, l.ID)
	default:
		if there && l.Key != "" {
			if err := removeAll(layer.Path); err != nil {
				return layer, err
			}
		}
		if there && l.Key == "" {
			fmt.Printf("%s: continuing with layer %s from the cache\n", l.language, l.ID)
		} else {
			fmt.Printf("%s: making layer %s\n", l.language, l.ID)
		}
		if err := os.MkdirAll(layer.Path, 0o755); err != nil {
			return layer, err
		}
		if err := l.Make(layer.Path); err != nil {
			return layer, fmt.Errorf("%s: %w", l.language, err)
		}
	}
	layer.LayerTypes = libcnb.LayerTypes{Launch: l.Launch, Cache: l.Cache}
	layer.Metadata = map[string]any{keyEntry: l.Key}
	for name, value := range l.variables {
		layer.LaunchEnvironment.Default(name, value)
	}
	if l.Components == nil {
		return layer, nil
	}
	components, err := l.Components(layer.Path)
	if err != nil {
		return layer, fmt.Errorf("%s: bill of materials of layer %s: %w", l.language, l.ID, err)
	}
	return layer, writeBOM(layer.SBOMPath(libcnb.CycloneDXJSON), components)
}

// removeAll removes a folder in which some may not be written to, such as those of Go's modules.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// Key makes a layer's key of what it depends on: words, and the contents of the application's files that are there.
func Key(app string, files []string, words ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, strings.Join(words, "\n"))
	for _, name := range files {
		content, err := os.ReadFile(filepath.Join(app, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %x\n", name, sha256.Sum256(content))
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
