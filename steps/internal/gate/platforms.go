package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/regularfile"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// Scanners take a layout for one image. Where an index has several, each has a layout of its own, and the check runs
// once for each: where it looks for the layout is a link, which Check sets in the one place that it can write to and
// the check sees.

// platformsFile lists, in the prepared folder, the platforms of several images.
const platformsFile = "platforms.json"

// layoutOf is the layout of one of several images, counted from 0.
func (in Parameters) layoutOf(i int) imagelayout.Dir {
	return imagelayout.Dir(filepath.Join(in.PreparedDir, "images", strconv.Itoa(i+1)))
}

// current is where the link to the layouts leads, itself a link to the one that is checked.
func (in Parameters) current() string { return filepath.Join(in.CheckResultsDir, ".image") }

// resultsOf is where the check's results for one of several images are.
func (in Parameters) resultsOf(i int) string {
	return filepath.Join(in.CheckResultsDir, strconv.Itoa(i+1))
}

// platformForm is the form of names of platforms. An image says itself of which it is.
var platformForm = regexp.MustCompile(`^[a-z0-9]{1,20}/[a-z0-9]{1,20}(/[a-z0-9]{1,20})?$`)

// platformOf is the platform of an image, as its configuration tells; its digest where it tells none.
func platformOf(image *imagelayout.Image, manifest imagelayout.Manifest) (string, error) {
	parsed, err := v1.ParseManifest(strings.NewReader(string(manifest.Raw)))
	if err != nil {
		return "", outcome.Errorf(
			outcome.ImageInvalid, "the image in %s: manifest %s: %w", image.Path, manifest.Digest, err,
		)
	}
	content, err := image.Open(parsed.Config)
	if err != nil {
		return "", err
	}
	defer content.Close()
	config, err := v1.ParseConfigFile(content)
	if err != nil {
		return "", outcome.Errorf(
			outcome.ImageInvalid, "the image in %s: configuration %s: %w", image.Path, parsed.Config.Digest, err,
		)
	}
	if name := config.Platform().String(); platformForm.MatchString(name) {
		return name, nil
	}
	return manifest.Digest.String(), nil
}

// writePlatforms notes what Check and Decide must know of several images.
func (in Parameters) writePlatforms(names []string) error {
	raw, err := json.Marshal(names)
	if err == nil {
		err = os.WriteFile(filepath.Join(in.PreparedDir, platformsFile), raw, 0o644)
	}
	return errors.Join(err, os.Symlink(in.current(), string(in.layout())))
}

// platforms are the platforms of several images; nil where there is one image.
func (in Parameters) platforms() ([]string, error) {
	raw, err := regularfile.Read(filepath.Join(in.PreparedDir, platformsFile), 64<<10)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	if err == nil {
		err = json.Unmarshal(raw, &names)
	}
	return names, err
}

// show has the check find one of several images.
func (in Parameters) show(i int) error {
	return errors.Join(os.RemoveAll(in.current()), os.Symlink(string(in.layoutOf(i)), in.current()))
}

// setAside moves what the check left of one of several images, so that the next one finds nothing.
func (in Parameters) setAside(i int) error {
	to := in.resultsOf(i)
	entries, err := os.ReadDir(in.CheckResultsDir)
	if err != nil {
		return err
	}
	before := []string{filepath.Base(in.current())}
	for n := range i + 1 {
		before = append(before, filepath.Base(in.resultsOf(n)))
	}
	if err := errors.Join(os.RemoveAll(to), os.Mkdir(to, 0o755)); err != nil {
		return err
	}
	for _, e := range entries {
		if slices.Contains(before, e.Name()) {
			continue
		}
		if err := os.Rename(filepath.Join(in.CheckResultsDir, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// together joins SARIF reports as one, which has the runs of all.
func together(reports [][]byte) ([]byte, error) {
	if len(reports) == 1 {
		return reports[0], nil
	}
	type log struct {
		Version string            `json:"version"`
		Runs    []json.RawMessage `json:"runs"`
	}
	all := log{Version: "2.1.0"}
	for _, raw := range reports {
		var one log
		if err := json.Unmarshal([]byte(strings.TrimPrefix(string(raw), "\ufeff")), &one); err != nil {
			return nil, err
		}
		all.Runs = append(all.Runs, one.Runs...)
	}
	return json.Marshal(all)
}

// ofPlatform puts the platform before what is said of its image; empty where there is one image.
func ofPlatform(name, text string) string {
	if name == "" {
		return text
	}
	return fmt.Sprintf("%s: %s", name, text)
}
