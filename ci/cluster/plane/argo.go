package plane

import (
	"context"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/stepwright/stepwright/ci/cluster/programs"
)

// StartArgo installs Argo's definitions, in full, and its controller, in namespace argo.
func (p *Plane) StartArgo(ctx context.Context) error {
	set := p.programs
	definitions, err := kustomize(filepath.Join(set.Argo, "manifests", "base", "crds", "full"))
	if err != nil {
		return err
	}
	dir := p.State.Path("argo")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Kustomize takes no absolute path.
	upstream, err := filepath.Rel(dir, filepath.Join(set.Argo, "manifests"))
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
	controller, err := kustomize(dir)
	if err != nil {
		return err
	}
	if err := p.cluster.namespace(ctx, "argo"); err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, definitions); err != nil {
		return err
	}
	if err := p.cluster.established(ctx); err != nil {
		return err
	}
	if err := p.cluster.Apply(ctx, controller); err != nil {
		return err
	}
	if err := p.cluster.available(ctx, "argo", "workflow-controller"); err != nil {
		return err
	}
	p.Say("Argo Workflows is ready")
	return nil
}

func kustomize(dir string) ([]byte, error) {
	options := krusty.MakeDefaultOptions()
	resources, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, err
	}
	return resources.AsYaml()
}
