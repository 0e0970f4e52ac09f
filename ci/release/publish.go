package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/stepwright/stepwright/ci/release/chart"
	"github.com/stepwright/stepwright/images/layouts"
)

// publish pushes the images of a release to <registry>/<step>, and its chart to <registry>/charts/stepwright. It
// returns their references. The chart, by which they are installed, is last.
func publish(ctx context.Context, from, registry string, plainHTTP bool) ([]string, error) {
	var all []string
	for _, name := range append(steps(), "charts/"+chart.Name) {
		reference, err := layouts.Push(
			ctx, filepath.Join(from, imagesDir, filepath.FromSlash(name)), registry+"/"+name, plainHTTP,
		)
		if err != nil {
			return all, err
		}
		all = append(all, reference)
	}
	return all, nil
}

// copyFiles copies the files of a release, but for images, into the folder v<version> of folder, as the project's
// releases have them below one URL. Checksums are verified first. Another release of a version that is there is an
// error.
func copyFiles(from, folder string) error {
	raw, err := os.ReadFile(filepath.Join(from, sums))
	if err != nil {
		return err
	}
	version, err := versionOf(from)
	if err != nil {
		return err
	}
	to := filepath.Join(folder, "v"+version)
	if there, err := os.ReadFile(filepath.Join(to, sums)); err == nil && string(there) != string(raw) {
		return fmt.Errorf("%s has another release of version %s: published versions do not change", to, version)
	}
	names := []string{sums, pipelines, provenance}
	for line := range strings.Lines(string(raw)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if sumOf(content) != sum {
			return fmt.Errorf("%s is not what %s says", name, sums)
		}
		names = append(names, name)
	}
	for _, name := range names {
		if err := copyFile(filepath.Join(from, name), filepath.Join(to, name)); err != nil {
			return err
		}
	}
	return nil
}

// versionOf is the version of a release: that of its chart.
func versionOf(from string) (string, error) {
	found, err := filepath.Glob(filepath.Join(from, chart.Name+"-*.tgz"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(err, fmt.Errorf("%s has %d charts, not one", from, len(found)))
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), chart.Name+"-"), ".tgz"), nil
}
