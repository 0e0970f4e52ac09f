// Package programs builds the cluster's programs from Go modules, and keeps them in a folder: a program that was built
// from the same files by the same Go is not built again.
package programs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/cachedir"
	"github.com/stepwright/stepwright/internal/filelock"
)

// edition is part of every key. Raise it when a build of the same files gives another result.
const edition = "2"

// Versions of the programs, as the go.mod files beside this package require them; a test compares.
const (
	Argo            = "v4.0.7"
	CoreDNS         = "v1.12.4"
	ExternalSecrets = "v0.16.2"
	containerd      = "v2.1.5"
	policies        = "v0.8.0" // of kube-network-policies
)

// KubernetesVersions are the versions of Kubernetes that a cluster can have. The first is the default.
var KubernetesVersions = []string{"v1.33.13", "v1.36.3"}

// KubernetesVariable names the environment variable that chooses one, by its minor version.
const KubernetesVariable = "KUBERNETES"

// Kubernetes is the version that the environment chooses, such as v1.33.13.
func Kubernetes() (string, error) {
	chosen := os.Getenv(KubernetesVariable)
	if chosen == "" {
		return KubernetesVersions[0], nil
	}
	var minors []string
	for _, version := range KubernetesVersions {
		if chosen == Minor(version) {
			return version, nil
		}
		minors = append(minors, Minor(version))
	}
	return "", fmt.Errorf(
		"%s=%s: there is no such Kubernetes here, but %s", KubernetesVariable, chosen, strings.Join(minors, " and "),
	)
}

// Minor is the minor version of a version: that of v1.33.13 is 1.33.
func Minor(version string) string {
	return strings.TrimPrefix(version[:strings.LastIndexByte(version, '.')], "v")
}

// OpenChoreos are the versions of OpenChoreo that a cluster can have. The first, the newest, is the default.
var OpenChoreos = []string{"1.2.3", "1.2.0"}

// OpenChoreoVariable names the environment variable that chooses one.
const OpenChoreoVariable = "OPENCHOREO"

// OpenChoreo is the version that the environment chooses.
func OpenChoreo() (string, error) {
	version := cmp.Or(os.Getenv(OpenChoreoVariable), OpenChoreos[0])
	if !slices.Contains(OpenChoreos, version) {
		return "", fmt.Errorf(
			"%s=%s: there is no such OpenChoreo here, but %s", OpenChoreoVariable, version,
			strings.Join(OpenChoreos, " and "),
		)
	}
	return version, nil
}

// The images that the node has from the start, by the names that manifests call them.
const (
	PauseImage      = "registry.k8s.io/pause:3.10"
	CoreDNSImage    = "registry.k8s.io/coredns/coredns:" + CoreDNS
	ArgoExecImage   = "quay.io/argoproj/argoexec:" + Argo
	ControllerImage = "quay.io/argoproj/workflow-controller:" + Argo
)

// A Set is the folders in which the programs are. Its zero value knows none.
type Set struct {
	Kubernetes string // etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet, kubectl
	Containerd string // containerd, containerd-shim-runc-v2, ctr, and the CNI plugins
	Runc       string // runc
	CoreDNS    string // coredns
	Argo       string // argo, argoexec, workflow-controller; definitions, manifests
	// manager, openchoreo-api, cluster-gateway, cluster-agent; definitions, config/webhook, install/helm
	OpenChoreo      string
	ExternalSecrets string // external-secrets; definitions, charts
	Policies        string // networkpolicies
	Pause           string // pause
}

// Path is a PATH on which all programs are.
func (s Set) Path() string {
	return strings.Join([]string{
		s.Kubernetes, s.Containerd, s.Runc, s.Argo, s.OpenChoreo, s.ExternalSecrets, s.CoreDNS, s.Policies,
	}, string(filepath.ListSeparator))
}

// Images are the archives of the node's images.
func (s Set) Images() []string {
	return []string{
		filepath.Join(s.Pause, "pause.tar"), filepath.Join(s.CoreDNS, "coredns.tar"),
		filepath.Join(s.Argo, "argoexec.tar"), filepath.Join(s.Argo, "workflow-controller.tar"),
	}
}

// A Builder builds programs.
type Builder struct {
	Source string // root of the project
	Dir    string // where the programs are kept, made when absent
	Log    func(format string, args ...any)
}

// DefaultDir is where programs are kept by default: cluster/programs of package cachedir.
func DefaultDir() (string, error) { return cachedir.Path("cluster", "programs") }

// Build builds the missing units, one after the other: each takes all processors and gigabytes of memory.
func (b Builder) Build(ctx context.Context) (Set, error) {
	openChoreo, err := OpenChoreo()
	if err != nil {
		return Set{}, err
	}
	kubernetes, err := Kubernetes()
	if err != nil {
		return Set{}, err
	}
	var set Set
	if err := b.build(ctx, units(&set, kubernetes, openChoreo)); err != nil {
		return Set{}, err
	}
	return set, nil
}

func (b Builder) build(ctx context.Context, all []unit) error {
	unlock, err := b.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	version, err := b.goCommand(ctx, b.Source, nil, "env", "GOVERSION")
	if err != nil {
		return err
	}
	for _, u := range all {
		if *u.into, err = b.ensure(ctx, u, version); err != nil {
			return fmt.Errorf("build %s: %w", u.name, err)
		}
	}
	return nil
}

// A unit is built and kept as one: programs of one module.
type unit struct {
	name   string
	what   string   // for people
	module string   // folder, from the project's root
	inputs []string // globs of its sources, from the project's root
	uses   []string // folders of other units that it is made of
	make   func(ctx context.Context, b Builder, u unit, dir string) error
	into   *string
}

// ensure returns the folder of the unit's programs and makes it when it is not there.
func (b Builder) ensure(ctx context.Context, u unit, version string) (string, error) {
	key, err := b.key(u, version)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.Dir, u.name+"-"+key)
	started := time.Now()
	if err := os.Chtimes(dir, started, started); err == nil {
		return dir, nil
	}
	b.Log("Building %s", u.what)
	unfinished, err := os.MkdirTemp(b.Dir, ".unfinished-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	if err := errors.Join(u.make(ctx, b, u, unfinished), os.Chmod(unfinished, 0o755)); err != nil {
		return "", err
	}
	if err := b.removeOld(u, started.Add(-unused)); err != nil {
		return "", err
	}
	b.Log("Built %s, took %s", u.name, time.Since(started).Round(100*time.Millisecond))
	return dir, os.Rename(unfinished, dir)
}

// unused is how long nobody asks for programs before they are removed: a cluster of another branch may run on them.
const unused = 24 * time.Hour

// removeOld removes builds of the unit from other files, or by another Go, that nobody has asked for since a
// time. It is large.
func (b Builder) removeOld(u unit, since time.Time) error {
	dirs, err := filepath.Glob(filepath.Join(b.Dir, u.name+"-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.ModTime().Before(since) {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// key names a unit's sources and its compiler.
func (b Builder) key(u unit, version string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, edition, version, runtime.GOARCH)
	for _, folder := range u.uses { // their names have their keys
		fmt.Fprintln(sum, filepath.Base(folder))
	}
	for _, glob := range u.inputs {
		files, err := filepath.Glob(filepath.Join(b.Source, glob))
		if err != nil {
			return "", err
		}
		if len(files) == 0 {
			return "", fmt.Errorf("%s has no %s", b.Source, glob)
		}
		slices.Sort(files)
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(sum, "%s %x\n", filepath.Base(file), sha256.Sum256(content))
		}
	}
	return hex.EncodeToString(sum.Sum(nil)[:6]), nil
}

// lock waits until nobody else builds into the folder.
func (b Builder) lock(ctx context.Context) (unlock func(), err error) {
	if unlock, err = filelock.Exclusive(ctx, filepath.Join(b.Dir, ".lock")); err != nil {
		return nil, err
	}
	unfinished, err := filepath.Glob(filepath.Join(b.Dir, ".unfinished-*"))
	for _, dir := range unfinished {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	if err != nil {
		unlock()
	}
	return unlock, err
}

// goBuild builds packages of a module into a folder: a file when there is one package, as the go command has it.
func (b Builder) goBuild(
	ctx context.Context, module, output string, environment, flags []string, packages ...string,
) error {
	args := slices.Concat([]string{"build", "-trimpath", "-buildvcs=false", "-o", output}, flags, packages)
	_, err := b.goCommand(ctx, filepath.Join(b.Source, module), environment, args...)
	return err
}

// goCommand runs the go command in a folder and returns what it prints.
func (b Builder) goCommand(ctx context.Context, dir string, environment []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = slices.Concat(os.Environ(), []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOFLAGS=", "GOWORK=off",
	}, environment)
	var out, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", args[0], dir, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// moduleDir returns the folder in which the go command keeps a dependency of a module.
func (b Builder) moduleDir(ctx context.Context, module, dependency string) (string, error) {
	if _, err := b.goCommand(ctx, filepath.Join(b.Source, module), nil, "mod", "download", dependency); err != nil {
		return "", err
	}
	return b.goCommand(ctx, filepath.Join(b.Source, module), nil, "list", "-m", "-f", "{{.Dir}}", dependency)
}

// copyFile copies a file, of a module for one, which nobody may write to, to one that can be written to.
func copyFile(to, from string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o644)
}
