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
	controller, err := Argo(p.state.Path("argo"), filepath.Join(p.programs.Argo, "manifests"))
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

// Argo is the manifests of Argo's controller for a cluster, made in a folder from those of its module.
func Argo(dir, manifests string) ([]byte, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	// Kustomize takes no absolute path, and goes through links.
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if manifests, err = filepath.EvalSymlinks(manifests); err != nil {
		return nil, err
	}
	upstream, err := filepath.Rel(dir, manifests)
	if err != nil {
		return nil, err
	}
	overlay, err := render("argo.yaml", map[string]string{
		"Manifests": filepath.ToSlash(upstream), "Version": programs.Argo, "Executor": programs.ArgoExecImage,
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), overlay, 0o644); err != nil {
		return nil, err
	}
	return kustomization.Text(dir)
}
