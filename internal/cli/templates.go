package cli

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
	"github.com/stepwright/stepwright/internal/kustomization"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	"github.com/stepwright/stepwright/internal/outcome"
	installed "github.com/stepwright/stepwright/templates"
)

// templates are what a platform engineer would have installed.
type templates struct {
	dir string // folder of --templates; empty: those that this program was built with

	known []templateFile // once they were read: building a kustomization takes time
}

func (t *templates) addTo(f *pflag.FlagSet) {
	f.StringVar(
		&t.dir, "templates", "",
		"folder of the templates: a kustomization, which is built, or the one above workflow-plane and control-plane "+
			"(default: the templates this program was built with)",
	)
}

// planes are the folders of templates, one for each plane.
var planes = []string{"workflow-plane", "control-plane"}

// templateFile is one file of templates, or a folder's text from kustomize.
type templateFile struct {
	name string // for people
	text []byte
}

// files reads the templates as kubectl applies them: a folder that has a kustomization is built. Those that this
// program was built with are not: what their kustomizations set is a platform's own.
func (t *templates) files() (all []templateFile, err error) {
	if t.known == nil {
		t.known, err = t.read()
	}
	return t.known, err
}

func (t *templates) read() ([]templateFile, error) {
	if t.dir == "" {
		var all []templateFile
		for _, plane := range planes {
			files, err := readFolder(installed.Files, plane, plane)
			if err != nil {
				return nil, err
			}
			all = append(all, files...)
		}
		return all, nil
	}
	if _, err := os.Stat(t.dir); err != nil {
		return nil, err
	}
	if kustomization.In(t.dir) {
		return readOrBuild(t.dir)
	}
	var all []templateFile
	for _, plane := range planes {
		dir := filepath.Join(t.dir, plane)
		if _, err := os.Stat(dir); err != nil {
			continue
		}
		files, err := readOrBuild(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, files...)
	}
	if all == nil {
		return readOrBuild(t.dir)
	}
	return all, nil
}

// readOrBuild reads a folder, or builds its kustomization; lines then are the lines that kubectl kustomize prints.
func readOrBuild(dir string) ([]templateFile, error) {
	if kustomization.In(dir) {
		text, err := kustomization.Text(dir)
		if err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "--templates: %w", err).WithHint(
				"Correct the kustomization: kubectl kustomize on that folder says the same.",
			)
		}
		return []templateFile{{"kubectl kustomize " + dir, text}}, nil
	}
	return readFolder(os.DirFS(dir), ".", dir)
}

// readFolder reads the YAML files directly in a folder. named is the folder's name for people.
func readFolder(from fs.FS, folder, named string) ([]templateFile, error) {
	entries, err := fs.ReadDir(from, folder)
	if err != nil {
		return nil, err
	}
	var all []templateFile
	for _, entry := range entries {
		if ext := path.Ext(entry.Name()); !entry.Type().IsRegular() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := fs.ReadFile(from, path.Join(folder, entry.Name()))
		if err != nil {
			return nil, err
		}
		all = append(all, templateFile{filepath.Join(named, entry.Name()), text})
	}
	if all == nil {
		return nil, fmt.Errorf("%s: %w: no YAML file in this folder", named, fs.ErrNotExist)
	}
	return all, nil
}

// library returns the templates to run.
func (t *templates) library() (*plan.Library, error) {
	files, err := t.files()
	if err != nil {
		return nil, unreadable(err)
	}
	library := new(plan.Library)
	for _, file := range files {
		if err := library.Add(file.text); err != nil {
			return nil, outcome.Errorf(outcome.InvalidParameters, "%s: %w", file.name, err).WithHint(
				"Correct the template: kubectl apply --server-side --dry-run=server says the same.",
			)
		}
	}
	return library, nil
}

// blamed has templates that somebody gave bear the blame for an error that has no reason of its own.
func (t *templates) blamed(err error) error {
	if failure := outcome.Of(err); t.dir == "" || failure.Reason != outcome.Failed {
		return err
	}
	return outcome.Errorf(outcome.InvalidParameters, "--templates: %w", err).WithHint(
		"Correct the templates; without --templates those run that this program was built with.",
	)
}

// with adds the templates to what was read of files: a file's object wins over a template of its name. An error of the
// reading goes through it.
func (t *templates) with(set *objects.Set, err error) (*objects.Set, error) {
	if err != nil {
		return nil, unreadable(err)
	}
	files, err := t.files()
	if err != nil {
		return nil, unreadable(err)
	}
	more := new(objects.Set)
	for _, file := range files {
		more.Read(file.name, file.text)
	}
	set.Add(more)
	return set, nil
}
