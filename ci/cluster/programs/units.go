package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// here is this program's folder, from the project's root.
const here = "ci/cluster/"

// modules is the folder of the modules that the programs are built from, each of its own: they want libraries at their
// own versions.
const modules = here + "modules/"

const strip = "-s -w"

// list is the files that say what a module without sources is built from.
func list(module string) []string { return listOf(module, "go.mod") }

// modFile is the module file by which a version of Kubernetes is built: go.mod for the default.
func modFile(kubernetes string) string {
	if kubernetes == KubernetesVersions[0] {
		return "go.mod"
	}
	return "kubernetes-" + Minor(kubernetes) + ".mod"
}

// listOf is the files that say what a module is built from by a module file.
func listOf(module, modFile string) []string {
	return []string{module + "/" + modFile, module + "/" + strings.TrimSuffix(modFile, "mod") + "sum"}
}

// units are the parts of a set with versions of Kubernetes and of OpenChoreo. The set gets the folder of each.
func units(set *Set, kubernetes, openChoreo string) []unit {
	sources := func(module string) []string {
		return []string{module + "/go.mod", module + "/go.sum", module + "/*.go"}
	}
	return []unit{
		{
			name: "kubernetes", what: "etcd, Kubernetes and kubectl " + kubernetes, module: modules + "kubernetes",
			inputs: append(listOf(modules+"kubernetes", modFile(kubernetes)), modules+"kubernetes/*.go"),
			make: func(ctx context.Context, b Builder, u unit, dir string) error {
				return makeKubernetes(ctx, b, u, kubernetes, dir)
			},
			into: &set.Kubernetes,
		},
		{
			name: "containerd", what: "containerd " + containerd + " and CNI plugins", module: modules + "containerd",
			inputs: list(modules + "containerd"), make: makeContainerd, into: &set.Containerd,
		},
		{
			name: "runc", what: "runc", module: "images/runc",
			inputs: list("images/runc"), make: makeRunc, into: &set.Runc,
		},
		{
			name: "coredns", what: "CoreDNS " + CoreDNS, module: modules + "coredns",
			inputs: sources(modules + "coredns"), make: makeCoreDNS, into: &set.CoreDNS,
		},
		{
			name: "argo", what: "Argo Workflows " + Argo, module: modules + "argo",
			inputs: list(modules + "argo"), make: makeArgo, into: &set.Argo,
		},
		{
			name: "openchoreo-" + openChoreo, what: "OpenChoreo " + openChoreo,
			module: modules + "openchoreo-" + openChoreo, inputs: list(modules + "openchoreo-" + openChoreo),
			make: makeOpenChoreo, into: &set.OpenChoreo,
		},
		{
			name: "externalsecrets", what: "External Secrets " + ExternalSecrets, module: modules + "externalsecrets",
			inputs: list(modules + "externalsecrets"), make: makeExternalSecrets, into: &set.ExternalSecrets,
		},
		{
			name: "networkpolicies", what: "kindnet's network policies " + policies,
			module: modules + "networkpolicies", inputs: sources(modules + "networkpolicies"), make: makePolicies,
			into: &set.Policies,
		},
		{
			name: "pause", what: "pause", module: ".",
			inputs: []string{here + "pause/*.go"}, make: makePause, into: &set.Pause,
		},
	}
}

func makeKubernetes(ctx context.Context, b Builder, u unit, version, dir string) error {
	if err := b.goBuild(
		ctx, u.module, filepath.Join(dir, "kubernetes"), nil, kubernetesFlags(version), ".",
	); err != nil {
		return err
	}
	for _, name := range []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl",
	} {
		if err := os.Symlink("kubernetes", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func makeContainerd(ctx context.Context, b Builder, u unit, dir string) error {
	flags := strip + " -X github.com/containerd/containerd/v2/version.Version=" + containerd
	return b.goBuild(ctx, u.module, dir+"/", nil, []string{
		"-tags", "no_btrfs,no_devmapper,no_zfs", "-ldflags", flags,
	}, "tool")
}

func makeRunc(ctx context.Context, b Builder, u unit, dir string) error {
	return b.goBuild(ctx, u.module, filepath.Join(dir, "runc"), []string{"CGO_ENABLED=1"},
		[]string{"-tags", "seccomp netgo osusergo", "-ldflags", strip + " -linkmode external -extldflags -static"},
		"github.com/opencontainers/runc")
}

func makeCoreDNS(ctx context.Context, b Builder, u unit, dir string) error {
	if err := b.goBuild(ctx, u.module, filepath.Join(dir, "coredns"), nil, []string{
		"-ldflags", strip,
	}, "."); err != nil {
		return err
	}
	return image{
		ref:        CoreDNSImage,
		entrypoint: "/coredns",
		files:      map[string]string{"coredns": filepath.Join(dir, "coredns")},
	}.write(dir)
}

func makePolicies(ctx context.Context, b Builder, u unit, dir string) error {
	return b.goBuild(ctx, u.module, filepath.Join(dir, "networkpolicies"), nil, []string{"-ldflags", strip}, ".")
}

// makeArgo puts into a copy of Argo's module what a module's archive cannot hold, links, and what Argo builds before
// its Go code.
func makeArgo(ctx context.Context, b Builder, u unit, dir string) error {
	const module = "github.com/argoproj/argo-workflows/v4"
	flags := fmt.Sprintf(
		"%s -X %[2]s.version=%s -X %[2]s.gitTag=%[3]s -X %[2]s.gitTreeState=clean -X %[2]s.gitCommit=module", strip,
		module, Argo,
	)
	original, err := b.buildChanged(ctx, u, dir, module, []string{"-ldflags", flags}, func(source string) error {
		signals := filepath.Join(source, "workflow", "executor", "osspecific")
		if err := copyFile(
			filepath.Join(signals, "signal_linux.go"), filepath.Join(signals, "signal_darwin.go"),
		); err != nil {
			return err
		}
		// The pages of Argo's server, which the command argo has in it.
		pages := filepath.Join(source, "ui", "dist", "app")
		if err := os.MkdirAll(pages, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(pages, "index.html"), []byte("<html></html>\n"), 0o644)
	})
	if err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(dir, "manifests"), os.DirFS(filepath.Join(original, "manifests"))); err != nil {
		return err
	}
	if err := toJSON(
		filepath.Join(dir, "definitions"),
		filepath.Join(original, "manifests", "base", "crds", "full", "argoproj.io_*.yaml"),
	); err != nil {
		return err
	}
	for _, img := range []image{
		{ref: ArgoExecImage, entrypoint: "argoexec", files: map[string]string{
			"bin/argoexec":      filepath.Join(dir, "argoexec"),
			"etc/nsswitch.conf": filepath.Join(original, "hack", "nsswitch.conf")}},
		{ref: ControllerImage, entrypoint: "workflow-controller", user: "8737", files: map[string]string{
			"bin/workflow-controller": filepath.Join(dir, "workflow-controller"),
			"etc/nsswitch.conf":       filepath.Join(original, "hack", "nsswitch.conf")}},
	} {
		if err := img.write(dir); err != nil {
			return err
		}
	}
	return nil
}

// makeExternalSecrets builds the operator with its provider for Kubernetes alone, since the libraries of all clouds
// take long to build. It copies the definitions, and the chart, for its role.
func makeExternalSecrets(ctx context.Context, b Builder, u unit, dir string) error {
	const module = "github.com/external-secrets/external-secrets"
	original, err := b.buildChanged(ctx, u, dir, module, []string{"-ldflags", strip}, func(source string) error {
		return errors.Join(
			onlyFile(filepath.Join(source, "pkg", "provider", "register"),
				"package register\n\nimport _ \""+module+"/pkg/provider/kubernetes\"\n"),
			onlyFile(filepath.Join(source, "pkg", "generator", "register"), "package register\n"),
		)
	})
	if err != nil {
		return err
	}
	if err := toJSON(
		filepath.Join(dir, "definitions"),
		filepath.Join(original, "config", "crds", "bases", "*external-secrets.io_*.yaml"),
	); err != nil {
		return err
	}
	return os.CopyFS(filepath.Join(dir, "charts"), os.DirFS(filepath.Join(original, "deploy", "charts")))
}

// onlyFile makes a package of one file.
func onlyFile(dir, content string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, filepath.Base(dir)+".go"), []byte(content), 0o644)
}

// buildChanged builds the tools of a unit with a copy of a dependency that change has changed. It returns the folder of
// the dependency as it is.
func (b Builder) buildChanged(
	ctx context.Context, u unit, dir, module string, flags []string, change func(source string) error,
) (original string, err error) {
	if original, err = b.moduleDir(ctx, u.module, module); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp("", u.name+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	source := filepath.Join(scratch, "source")
	if err := os.CopyFS(source, os.DirFS(original)); err != nil {
		return "", err
	}
	if err := change(source); err != nil {
		return "", err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		if err := copyFile(filepath.Join(scratch, name), filepath.Join(b.Source, u.module, name)); err != nil {
			return "", err
		}
	}
	modfile := filepath.Join(scratch, "go.mod")
	if _, err := b.goCommand(ctx, scratch, nil, "mod", "edit", "-replace", module+"="+source, modfile); err != nil {
		return "", err
	}
	flags = append([]string{"-modfile", modfile}, flags...)
	return original, b.goBuild(ctx, u.module, dir+"/", nil, flags, "tool")
}

// makeOpenChoreo builds the programs and copies the files for their installation: definitions, webhooks, and the
// charts, for their roles.
func makeOpenChoreo(ctx context.Context, b Builder, u unit, dir string) error {
	const module = "github.com/openchoreo/openchoreo"
	if err := b.goBuild(ctx, u.module, dir+"/", nil, []string{"-ldflags", strip}, "tool"); err != nil {
		return err
	}
	// The manager's main package is the folder cmd itself.
	if err := os.Rename(filepath.Join(dir, "cmd"), filepath.Join(dir, "manager")); err != nil {
		return err
	}
	source, err := b.moduleDir(ctx, u.module, module)
	if err != nil {
		return err
	}
	if err := toJSON(
		filepath.Join(dir, "definitions"), filepath.Join(source, "config", "crd", "bases", "*.yaml"),
	); err != nil {
		return err
	}
	for _, part := range []string{"config/webhook", "install/helm"} {
		if err := os.CopyFS(filepath.Join(dir, part), os.DirFS(filepath.Join(source, part))); err != nil {
			return err
		}
	}
	return nil
}

// toJSON writes YAML files as JSON: Argo's definitions have ten megabytes, which take an API server half a minute to
// read as YAML.
func toJSON(dir, glob string) error {
	files, err := filepath.Glob(glob)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("there is no %s", glob)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		converted, err := yaml.YAMLToJSON(content)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml") + ".json"
		if err := os.WriteFile(filepath.Join(dir, name), converted, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makePause makes the image of the container that holds a pod's namespaces.
func makePause(ctx context.Context, b Builder, u unit, dir string) error {
	if err := b.goBuild(ctx, u.module, filepath.Join(dir, "pause"), nil, []string{
		"-ldflags", strip,
	}, "./"+here+"pause"); err != nil {
		return err
	}
	return image{ref: PauseImage, entrypoint: "/pause", user: "65535:65535",
		files: map[string]string{"pause": filepath.Join(dir, "pause")}}.write(dir)
}
