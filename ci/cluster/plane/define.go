package plane

import (
	"context"
	"os"
	"path/filepath"
)

// define makes the API server serve the custom resources of Argo, in full, of OpenChoreo and of External Secrets.
func (p *Plane) define(ctx context.Context) error {
	external, err := render("externalsecrets.yaml", nil)
	if err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, external); err != nil {
		return err
	}
	for _, glob := range []string{
		filepath.Join(p.programs.OpenChoreo, "config", "crd", "bases", "*.yaml"),
		filepath.Join(p.programs.Argo, "manifests", "base", "crds", "full", "argoproj.io_*.yaml"),
	} {
		files, err := filepath.Glob(glob)
		if err != nil {
			return err
		}
		for _, file := range files {
			definition, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := p.cluster.Apply(ctx, definition); err != nil {
				return err
			}
		}
	}
	if err := p.cluster.established(ctx); err != nil {
		return err
	}
	p.say("The API server serves the objects of Argo and OpenChoreo")
	return nil
}
