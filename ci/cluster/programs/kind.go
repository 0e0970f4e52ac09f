package programs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Versions of what only a cluster of kind has, as the go.mod files beside this package require them; a test compares.
const (
	Kind        = "v0.33.0"
	Helm        = "v3.22.0"
	CertManager = "v1.11.5" // the last whose programs are in its module
	localPath   = "v0.0.30"
)

// Tools are what a cluster of kind is installed with.
type Tools struct {
	Kind string // program of this machine
	Helm string // likewise
	// Folder with manifests and charts, in one of its own each: argo, external-secrets with crds.yaml,
	// openchoreo-control-plane, openchoreo-workflow-plane.
	Charts string
}

// Parts are what the registries of the web have and a machine without a network makes.
type Parts struct {
	Node        string   // archive of the node's image, NodeImage
	Commands    string   // archive of the image for commands, CommandsImage
	Images      []string // archives of images that pods run
	CertManager string   // folder with its chart, and crds.yaml
	Runc        string   // program that an engine can run containers by
}

// CommandsImage is the image for commands that is made.
const CommandsImage = "localhost/stepwright/kind-commands:bookworm"

// NodeImage is the image of the node that is made, with a version of Kubernetes.
func NodeImage(kubernetes string) string { return "localhost/stepwright/kind-node:" + kubernetes }

// BuildTools builds what the installation of a cluster of kind needs on any machine.
func (b Builder) BuildTools(ctx context.Context) (Tools, error) {
	openChoreo, err := OpenChoreo()
	if err != nil {
		return Tools{}, err
	}
	const helmModule = "ci/release/helm"
	var kind, helm, charts string
	err = b.build(ctx, []unit{
		{
			name: "kind", what: "kind " + Kind, module: modules + "kind",
			inputs: list(modules + "kind"), make: makeTool, into: &kind,
		},
		{
			name: "helm", what: "helm " + Helm, module: helmModule,
			inputs: list(helmModule), make: makeTool, into: &helm,
		},
		{
			name: "charts", what: "charts and manifests", module: modules,
			inputs: slices.Concat(
				list(modules+"argo"), list(modules+"openchoreo-"+openChoreo), list(modules+"externalsecrets"),
			),
			make: func(ctx context.Context, b Builder, u unit, dir string) error {
				return makeCharts(ctx, b, u, openChoreo, dir)
			},
			into: &charts,
		},
	})
	return Tools{filepath.Join(kind, "kind"), filepath.Join(helm, "helm"), charts}, err
}

// makeTool builds a program of this machine, which need not be Linux.
func makeTool(ctx context.Context, b Builder, u unit, dir string) error {
	flags := strip + " -X helm.sh/helm/v3/internal/version.version=" + Helm
	return b.goBuild(ctx, u.module, dir+"/", []string{"GOOS=" + runtime.GOOS}, []string{"-ldflags", flags}, "tool")
}

// makeCharts copies charts of modules, of OpenChoreo in that version. A release gives them their version; what a chart
// depends on is not in a module, and nobody here enables it.
func makeCharts(ctx context.Context, b Builder, u unit, openChoreo, dir string) error {
	argo, err := b.moduleDir(ctx, u.module+"argo", "github.com/argoproj/argo-workflows/v4")
	if err != nil {
		return err
	}
	if err := copyTree(filepath.Join(dir, "argo"), filepath.Join(argo, "manifests")); err != nil {
		return err
	}
	choreo, err := b.moduleDir(ctx, u.module+"openchoreo-"+openChoreo, "github.com/openchoreo/openchoreo")
	if err != nil {
		return err
	}
	for _, name := range []string{"openchoreo-control-plane", "openchoreo-workflow-plane"} {
		if err := copyChart(
			filepath.Join(dir, name), filepath.Join(choreo, "install", "helm", name), "Chart.yaml", "v"+openChoreo,
		); err != nil {
			return err
		}
	}
	secrets, err := b.moduleDir(ctx, u.module+"externalsecrets", "github.com/external-secrets/external-secrets")
	if err != nil {
		return err
	}
	chart := filepath.Join(dir, "external-secrets")
	if err := copyChart(
		chart, filepath.Join(secrets, "deploy", "charts", "external-secrets"), "Chart.yaml", ExternalSecrets,
	); err != nil {
		return err
	}
	return copyFile(filepath.Join(chart, "crds.yaml"), filepath.Join(secrets, "deploy", "crds", "bundle.yaml"))
}

// copyChart copies a chart, as its release of that version has it.
func copyChart(to, from, description, version string) error {
	if err := copyTree(to, from); err != nil {
		return err
	}
	content, err := os.ReadFile(filepath.Join(from, description))
	if err != nil {
		return err
	}
	var chart map[string]any
	if err := yaml.Unmarshal(content, &chart); err != nil {
		return fmt.Errorf("%s of %s: %w", description, from, err)
	}
	chart["version"], chart["appVersion"] = strings.TrimPrefix(version, "v"), version
	delete(chart, "dependencies")
	// A schema of values may want those of what the chart depends on.
	if content, err = yaml.Marshal(chart); err != nil {
		return err
	}
	return errors.Join(
		removeIfThere(filepath.Join(to, "Chart.lock")),
		os.WriteFile(filepath.Join(to, "Chart.yaml"), content, 0o644),
	)
}

func removeIfThere(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// copyTree copies a folder of a module to one that can be written to.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		return copyFile(filepath.Join(to, name), path)
	})
}

// BuildParts makes, on Linux, what a machine with a network pulls.
func (b Builder) BuildParts(ctx context.Context) (Parts, error) {
	openChoreo, err := OpenChoreo()
	if err != nil {
		return Parts{}, err
	}
	kubernetes, err := Kubernetes()
	if err != nil {
		return Parts{}, err
	}
	set, err := b.Build(ctx)
	if err != nil {
		return Parts{}, err
	}
	bases, err := b.bases(ctx)
	if err != nil {
		return Parts{}, err
	}
	var kubeadm, certs, volumes string
	if err := b.build(ctx, []unit{
		{
			name: "kubeadm", what: "kubeadm " + kubernetes, module: modules + "kubeadm",
			inputs: listOf(modules+"kubeadm", modFile(kubernetes)),
			make: func(ctx context.Context, b Builder, u unit, dir string) error {
				return b.goBuild(ctx, u.module, dir+"/", nil, kubernetesFlags(kubernetes), "tool")
			},
			into: &kubeadm,
		},
		{
			name: "certmanager", what: "cert-manager " + CertManager, module: modules + "certmanager",
			inputs: list(modules + "certmanager"), make: makeCertManager, into: &certs,
		},
		{
			name: "localpath", what: "local-path-provisioner " + localPath, module: modules + "localpath",
			inputs: list(modules + "localpath"), make: makeLocalPath, into: &volumes,
		},
	}); err != nil {
		return Parts{}, err
	}
	var node, commands, images string
	maker := nodeMaker{kubernetes: kubernetes, set: set, bases: bases, kubeadm: kubeadm, volumes: volumes}
	if err := b.build(ctx, []unit{
		{
			name: "node", what: "the image of kind's node", module: modules + "kind",
			inputs: list(modules + "kind"),
			uses: []string{
				nodeFilesKey(), bases.nodeKey, set.Kubernetes, set.Containerd, set.Runc, set.CoreDNS, set.Policies,
				set.Pause, kubeadm, volumes,
			},
			make: maker.make, into: &node,
		},
		{
			name: "commands", what: "the image for commands beside kind's node",
			uses: []string{bases.commandsKey, set.Kubernetes}, make: maker.makeCommands, into: &commands,
		},
		{
			name: "images", what: "the images of OpenChoreo and External Secrets",
			uses: []string{set.OpenChoreo, set.ExternalSecrets, set.Kubernetes},
			make: func(_ context.Context, _ Builder, _ unit, dir string) error {
				return makeImages(set, kubernetes, openChoreo, dir)
			},
			into: &images,
		},
	}); err != nil {
		return Parts{}, err
	}
	parts := Parts{
		Node: filepath.Join(node, "kind-node.tar"), Commands: filepath.Join(commands, "kind-commands.tar"),
		CertManager: filepath.Join(certs, "chart"), Runc: filepath.Join(set.Runc, "runc"),
		Images: []string{
			filepath.Join(set.Argo, "argoexec.tar"), filepath.Join(set.Argo, "workflow-controller.tar"),
		},
	}
	for _, dir := range []string{certs, images} {
		archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
		if err != nil {
			return Parts{}, err
		}
		parts.Images = append(parts.Images, archives...)
	}
	return parts, nil
}

// kubernetesFlags build one of Kubernetes' programs of a version, and stamp it.
func kubernetesFlags(version string) []string {
	const variables = "k8s.io/component-base/version"
	digits := strings.Split(strings.TrimPrefix(version, "v"), ".")
	return []string{"-modfile=" + modFile(version), "-ldflags", fmt.Sprintf(
		"%s -X %[2]s.gitVersion=%s -X %[2]s.gitMajor=%s -X %[2]s.gitMinor=%s -X "+
			"%[2]s.gitTreeState=clean -X %[2]s.gitCommit=module",
		strip, variables, version, digits[0], digits[1])}
}

func makeLocalPath(ctx context.Context, b Builder, u unit, dir string) error {
	return b.goBuild(ctx, u.module, dir+"/", nil, []string{"-ldflags", strip}, "tool")
}

// makeCertManager builds its programs, packs them, and copies the chart and the definitions.
func makeCertManager(ctx context.Context, b Builder, u unit, dir string) error {
	if err := b.goBuild(ctx, u.module, dir+"/", nil, []string{"-ldflags", strip}, "tool"); err != nil {
		return err
	}
	source, err := b.moduleDir(ctx, u.module, "github.com/cert-manager/cert-manager")
	if err != nil {
		return err
	}
	chart := filepath.Join(dir, "chart")
	if err := copyChart(
		chart, filepath.Join(source, "deploy", "charts", "cert-manager"), "Chart.template.yaml", CertManager,
	); err != nil {
		return err
	}
	// The template's annotations have places for a release to fill in.
	if err := dropAnnotations(filepath.Join(chart, "Chart.yaml")); err != nil {
		return err
	}
	if err := certManagerDefinitions(filepath.Join(chart, "crds.yaml"), source); err != nil {
		return err
	}
	for _, name := range []string{"controller", "webhook", "cainjector"} {
		if err := (image{
			ref: "quay.io/jetstack/cert-manager-" + name + ":" + CertManager, entrypoint: "/" + name, user: "1000",
			files: map[string]string{name: filepath.Join(dir, name)},
		}).write(dir); err != nil {
			return err
		}
	}
	return nil
}

func dropAnnotations(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var chart map[string]any
	if err := yaml.Unmarshal(content, &chart); err != nil {
		return err
	}
	delete(chart, "annotations")
	if content, err = yaml.Marshal(chart); err != nil {
		return err
	}
	return os.WriteFile(file, content, 0o644)
}

// certManagerDefinitions writes the definitions without the marks of helm's templates, which their file has.
func certManagerDefinitions(to, source string) error {
	files, err := filepath.Glob(filepath.Join(source, "deploy", "crds", "crd-*.yaml"))
	if err != nil {
		return err
	}
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		all.WriteString("---\n")
		for line := range strings.Lines(string(content)) {
			if !strings.Contains(line, "{{") {
				all.WriteString(line)
			}
		}
	}
	return os.WriteFile(to, []byte(all.String()), 0o644)
}

// makeImages packs the processes of that version of OpenChoreo, kubectl, by which its chart makes roles, and the
// External Secrets Operator.
func makeImages(set Set, kubernetes, openChoreo, dir string) error {
	for repository, program := range map[string]string{
		"controller": "manager", "openchoreo-api": "openchoreo-api", "cluster-gateway": "cluster-gateway",
		"cluster-agent": "cluster-agent",
	} {
		if err := (image{
			ref: "ghcr.io/openchoreo/" + repository + ":v" + openChoreo, entrypoint: "/" + program,
			user: "65532:65532", files: map[string]string{program: filepath.Join(set.OpenChoreo, program)},
		}).write(dir); err != nil {
			return err
		}
	}
	if err := (image{
		ref:        "oci.external-secrets.io/external-secrets/external-secrets:" + ExternalSecrets,
		entrypoint: "/bin/external-secrets", user: "65534",
		files: map[string]string{
			"bin/external-secrets": filepath.Join(set.ExternalSecrets, "external-secrets"),
		},
	}).write(dir); err != nil {
		return err
	}
	return image{
		ref: KubectlImage(kubernetes), entrypoint: "kubectl",
		files: map[string]string{"bin/kubectl": filepath.Join(set.Kubernetes, "kubernetes")},
	}.write(dir)
}

// KubectlImage is what a job of OpenChoreo's chart runs, of a version of Kubernetes.
func KubectlImage(kubernetes string) string { return "registry.k8s.io/kubectl:" + kubernetes }

// containerSpec is what containerd gives every container, with the changes that kind makes: no limits of processes, and
// a hook that hides the machine's product names.
func containerSpec(ctx context.Context, set Set) ([]byte, error) {
	raw, err := exec.CommandContext(ctx, filepath.Join(set.Containerd, "ctr"), "oci", "spec").Output()
	if err != nil {
		return nil, fmt.Errorf("ctr oci spec: %w", err)
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return nil, err
	}
	if process, ok := spec["process"].(map[string]any); ok {
		delete(process, "rlimits")
	}
	spec["hooks"] = map[string]any{
		"createContainer": []any{map[string]any{"path": "/kind/bin/mount-product-files.sh"}},
	}
	return json.MarshalIndent(spec, "", "  ")
}
