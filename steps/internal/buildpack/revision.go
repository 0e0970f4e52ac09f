package buildpack

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// revisionVariable holds the commit, for buildpacks and for the application. Paketo's buildpack for Git sets it by the
// folder .git. Here it comes from what checkout-source told, since .git is not part of the application: it differs
// between two clones of one commit, and would be part of the image.
const revisionVariable = "REVISION"

// writeDefaults writes a folder of build configuration (CNB platform specification): the builder's own, and variables
// that it does not name. They count only where no variable of the developer or of another buildpack is set.
func writeDefaults(variables map[string]string, to string) error {
	into := filepath.Join(to, "env")
	if err := os.MkdirAll(into, 0o755); err != nil {
		return err
	}
	from := filepath.Join(cmp.Or(os.Getenv("CNB_BUILD_CONFIG_DIR"), defaultConfig), "env")
	entries, err := os.ReadDir(from)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(into, e.Name())); err != nil {
			return err
		}
	}
	for name, value := range variables {
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return sets(e.Name(), name) }) {
			continue
		}
		if err := os.WriteFile(filepath.Join(into, name+".default"), []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sets tells whether a file of a folder of variables sets that one: it has its name, or that and the action.
func sets(file, variable string) bool {
	name, _, _ := strings.Cut(file, ".")
	return name == variable
}

// setRevision gives the application the commit, unless the run image or a layer of a buildpack sets the variable.
func (s *sealing) setRevision(config *v1.Config) error {
	if s.revision.Commit == "" || slices.ContainsFunc(config.Env, func(v string) bool {
		return strings.HasPrefix(v, revisionVariable+"=")
	}) {
		return nil
	}
	set, err := launchSets(layersDir, revisionVariable)
	if err == nil && !set {
		config.Env = append(config.Env, revisionVariable+"="+s.revision.Commit)
	}
	return err
}

// launchSets tells whether a layer that goes into the image sets a variable for the application. The layers are the
// user's code to choose: no link is followed, and what is no layer sets nothing.
func launchSets(layers, variable string) (bool, error) {
	root, err := os.OpenRoot(layers)
	if err != nil {
		return false, err
	}
	defer root.Close()
	group, err := readGroup(layers)
	if err != nil {
		return false, err
	}
	set := false
	for _, g := range group.Group {
		folder := strings.ReplaceAll(g.ID, "/", "_")
		descriptors, err := fs.Glob(root.FS(), path.Join(folder, "*.toml"))
		if err != nil {
			return false, err
		}
		for _, file := range descriptors {
			if !isForLaunch(root, file) {
				continue
			}
			for _, dir := range []string{"env", "env.launch"} {
				if err := walk(root, path.Join(strings.TrimSuffix(file, ".toml"), dir), 0,
					func(name string, info fs.FileInfo) error {
						set = set || !info.IsDir() && sets(path.Base(name), variable)
						return nil
					}); err != nil {
					return false, err
				}
			}
		}
	}
	return set, nil
}

// isForLaunch reads the descriptor of a layer, which inspect has looked at.
func isForLaunch(root *os.Root, file string) bool {
	raw, err := root.ReadFile(file)
	var descriptor struct {
		Types struct {
			Launch bool `toml:"launch"`
		} `toml:"types"`
	}
	if err == nil {
		err = toml.Unmarshal(raw, &descriptor)
	}
	return err == nil && descriptor.Types.Launch
}

// labelProject tells of the source as kpack does (CNB platform specification, project metadata).
func labelProject(r workspace.Revision, labels map[string]string) error {
	if r.Commit == "" {
		return nil
	}
	type object = map[string]any
	raw, err := json.Marshal(object{"source": object{
		"type":     "git",
		"version":  object{"commit": r.Commit},
		"metadata": object{"repository": r.URL, "revision": r.Commit},
	}})
	labels[projectLabel] = string(raw)
	return err
}
