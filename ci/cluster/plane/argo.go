package plane

import (
	"context"
	"os"
	"path/filepath"

	"github.com/stepwright/stepwright/ci/cluster/programs"
	"github.com/stepwright/stepwright/internal/kustomization"
)

// startArgo installs Argo's controller, in namespace argo.
func (p *Plane) startArgo(ctx context.Context) error {
	dir := p.state.Path("argo")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Kustomize takes no absolute path.
	upstream, err := filepath.Rel(dir, filepath.Join(p.programs.Argo, "manifests"))
	if err != nil {
		return err
	}
	overlay, err := render("argo.yaml", map[string]string{
		"Manifests": upstream, "Version": programs.Argo, "Executor": programs.ArgoExecImage,
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), overlay, 0o644); err != nil {
		return err
	}
	controller, err := kustomization.Text(dir)
	if err != nil {
		return err
	}
	if err := p.cluster.namespace(ctx, "argo"); err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, controller); err != nil {
		return err
	}
	if err := p.cluster.available(ctx, "argo", "workflow-controller"); err != nil {
		return err
	}
	p.say("Argo Workflows is ready")
	return nil
}
