package plane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// define makes the API server serve the custom resources of Argo, in full, of OpenChoreo and of External
// Secrets.
func (p *Plane) define(ctx context.Context) error {
	for _, of := range []string{p.programs.OpenChoreo, p.programs.Argo, p.programs.ExternalSecrets} {
		files, err := filepath.Glob(filepath.Join(of, "definitions", "*.json"))
		if err != nil {
			return err
		}
		for _, file := range files {
			definition, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if err := p.cluster.define(ctx, definition); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	if err := p.cluster.established(ctx); err != nil {
		return err
	}
	p.say("The API server serves the objects of Argo, OpenChoreo and External Secrets")
	return nil
}
