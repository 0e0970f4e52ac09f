package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/stepwright/stepwright/ci/release/chart"
	"github.com/stepwright/stepwright/images/layouts"
)

// A publication is where a release goes, and by which key.
type publication struct {
	from          string // folder that build made
	registry      string
	plainHTTP     bool
	key, password string // files for the signatures; without a key nothing is signed
	stderr        io.Writer
}

// push pushes the images of a release to <registry>/<name>, and its chart to <registry>/charts/stepwright. It returns
// their references. The chart, by which they are installed, is last.
func (p publication) push(ctx context.Context) ([]string, error) {
	var all []string
	for _, name := range append(imageNames(), "charts/"+chart.Name) {
		dir := filepath.Join(p.from, imagesDir, filepath.FromSlash(name))
		push := p.sign
		if p.key == "" || strings.Contains(name, "/") {
			push = func(ctx context.Context, dir, name string) (string, error) {
				return layouts.Push(ctx, dir, p.registry+"/"+name, p.plainHTTP)
			}
		}
		reference, err := push(ctx, dir, name)
		if err != nil {
			return all, err
		}
		all = append(all, reference)
	}
	return all, nil
}

// sign pushes the image of a layout and signs it, as publish-image does for everybody: by the program of the release.
func (p publication) sign(ctx context.Context, dir, name string) (string, error) {
	_, tag, err := layouts.Index(dir)
	if err != nil {
		return "", err
	}
	results, err := os.MkdirTemp("", "stepwright-publish-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(results)
	program, err := filepath.Abs(filepath.Join(p.from, "publish-image_"+runtime.GOOS+"_"+runtime.GOARCH))
	if err != nil {
		return "", err
	}
	if err := os.Chmod(program, 0o755); err != nil { // archives of CIs drop it
		return "", err
	}
	cmd := exec.CommandContext(
		ctx, program, "--image-source", dir, "--workspace", results, "--results-dir", results,
		"--registry", p.registry, "--image-name", name, "--image-tag", tag,
		"--insecure-plain-http="+strconv.FormatBool(p.plainHTTP), "--registry-push-secret", dockerConfig(),
		"--signing", "key", "--signing-key", p.key, "--signing-password", p.password,
	)
	cmd.Stdout, cmd.Stderr = p.stderr, p.stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("sign %s by %s: %w", name, program, err)
	}
	reference, err := os.ReadFile(filepath.Join(results, "image"))
	return strings.TrimSpace(string(reference)), err
}

// dockerConfig is the file that docker login writes.
func dockerConfig() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if home, err := os.UserHomeDir(); dir == "" && err == nil {
		dir = filepath.Join(home, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

// copyFiles copies the files of a release, but for images, into the folder v<version> of folder, as the project's
// releases have them below one URL, and signs the provenance, which has the digests of all. Checksums are verified
// first. Another release of a version that is there is an error.
func (p publication) copyFiles(folder string) error {
	from := p.from
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
	if p.key == "" {
		return nil
	}
	key, err := loadKey(p.key, p.password)
	if err != nil {
		return err
	}
	about, err := os.ReadFile(filepath.Join(from, provenance))
	if err != nil {
		return err
	}
	bundle, err := key.bundle(about)
	if err != nil {
		return err
	}
	return writeAll(to, map[string][]byte{signed: bundle})
}

// versionOf is the version of a release: that of its chart.
func versionOf(from string) (string, error) {
	found, err := filepath.Glob(filepath.Join(from, chart.Name+"-*.tgz"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(err, fmt.Errorf("%s has %d charts, not one", from, len(found)))
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), chart.Name+"-"), ".tgz"), nil
}
