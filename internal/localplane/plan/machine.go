package plan

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"
	corev1 "k8s.io/api/core/v1"

	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/regularfile"
)

// Machine is what stands for the cluster. All paths are absolute.
type Machine struct {
	Programs string // folder of the steps' binaries, each named as its container's command
	Scratch  string // folder for the volumes of this run

	// Settings are what a platform engineer would have set: by ClusterWorkflowTemplate and input parameter, the
	// parameter's default.
	Settings map[string]map[string]string

	Secrets    map[string]Source // by name
	ConfigMaps map[string]Source // by name
	Volumes    map[string]string // folders, by name of an emptyDir volume, that outlive this run
	Mounts     map[string]string // folders, by a container's path, that every process has where its container has none

	// Containers runs those containers that a process of this machine cannot stand for. nil: they are refused.
	Containers *container.Runtime
	Images     map[string]string // by ClusterWorkflowTemplate: the image that such a container has instead of its own

	// Trace are variables that say where steps send their spans, in place of those that the templates have for their
	// cluster. nil: nowhere.
	Trace map[string]string
}

// Source is what a Secret or ConfigMap holds: the files of a folder, or single files by key. Nothing is copied, but for
// what a container's user has to read.
type Source struct {
	Dir   string
	Files map[string]string
	Copy  string // folder of files and of folders of files, of which the run has a copy; links are followed
}

// mount is a folder of this machine and its path in a container.
type mount struct {
	path   string
	folder string
	volume string            // the folder's volume, when it is only a part of one
	links  map[string]string // to make in the folder
	copied string            // the folder's content is to be that of this one; empty: nothing is copied

	readOnly bool
	lent     bool // belongs to this run: a container's user may own it, even where it is read-only
}

// mounts are the mounts of one container, longer paths first.
type mounts []mount

// mounts finds a folder for each volume of a template's container.
func (m *Machine) mounts(
	step string, spec *wfv1.WorkflowSpec, template *wfv1.Template, of *corev1.Container,
) (mounts, error) {
	var all mounts
	for _, v := range of.VolumeMounts {
		if err := only("volumeMount "+v.Name, v, "name", "mountPath", "subPath", "readOnly"); err != nil {
			return nil, err
		}
		found, err := m.volume(step, v.Name, spec, template)
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", v.Name, err)
		}
		found.path = filepath.Clean(v.MountPath)
		if v.SubPath != "" {
			if !filepath.IsLocal(v.SubPath) || found.readOnly { // of a Secret or ConfigMap, too
				return nil, fmt.Errorf("volumeMount %s: subPath %q cannot be run here", v.Name, v.SubPath)
			}
			found.volume, found.folder = found.folder, filepath.Join(found.folder, v.SubPath)
		}
		found.readOnly = found.readOnly || v.ReadOnly
		all = append(all, found)
	}
	if !all.bring(of) {
		for path, folder := range m.Mounts {
			if !slices.ContainsFunc(all, func(own mount) bool { return own.path == path }) {
				all = append(all, mount{path: path, folder: folder})
			}
		}
	}
	slices.SortFunc(all, func(a, b mount) int { return len(b.path) - len(a.path) })
	return all, nil
}

// Volume is the folder of a step's own volume, below the folder for all volumes of a run.
func Volume(scratch, step, name string) string { return filepath.Join(scratch, "volumes", step, name) }

func (m *Machine) volume(step, name string, spec *wfv1.WorkflowSpec, template *wfv1.Template) (mount, error) {
	isClaim := func(claim corev1.PersistentVolumeClaim) bool { return claim.Name == name }
	if slices.ContainsFunc(spec.VolumeClaimTemplates, isClaim) {
		return mount{folder: filepath.Join(m.Scratch, name), lent: true}, nil // the steps share it
	}
	i := slices.IndexFunc(template.Volumes, func(v corev1.Volume) bool { return v.Name == name })
	if i < 0 {
		return mount{}, fmt.Errorf("is neither a volume of the template nor a claim of the workflow")
	}
	v, own := template.Volumes[i], mount{folder: Volume(m.Scratch, step, name)}
	if err := only("", v, "name", "emptyDir", "secret", "configMap", "projected"); err != nil {
		return mount{}, err
	}
	switch {
	case v.EmptyDir != nil && m.Volumes[name] != "":
		own.folder = m.Volumes[name]
		return own, nil
	case v.EmptyDir != nil:
		own.lent = true
		return own, nil
	case v.Secret != nil:
		if err := only("secret", v.Secret, "secretName", "optional", "defaultMode"); err != nil {
			return mount{}, err
		}
		return own.of("Secret", v.Secret.SecretName, m.Secrets, v.Secret.Optional)
	case v.ConfigMap != nil:
		if err := only("configMap", v.ConfigMap, "name", "optional", "defaultMode"); err != nil {
			return mount{}, err
		}
		return own.of("ConfigMap", v.ConfigMap.Name, m.ConfigMaps, v.ConfigMap.Optional)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if err := only("projected", source, "serviceAccountToken"); err != nil {
				return mount{}, err
			}
		}
		own.readOnly = true // and empty: only a cluster gives tokens
		return own, nil
	}
	return mount{}, fmt.Errorf("is of a kind that cannot be had here")
}

// of fills a mount; an optional source that is absent is an empty folder, as in a cluster.
func (m mount) of(kind, name string, sources map[string]Source, optional *bool) (mount, error) {
	m.readOnly = true
	source, ok := sources[name]
	switch {
	case !ok && (optional == nil || !*optional):
		return mount{}, fmt.Errorf("there is no %s %q here; there is %s", kind, name, names(sources))
	case source.Dir != "":
		m.folder = source.Dir
	case source.Copy != "":
		m.copied, m.lent = source.Copy, true
	}
	m.links = source.Files
	return m, nil
}

// local is the path on this machine of a path in the container; false when no volume is there.
func (all mounts) local(path string) (string, bool) {
	for _, m := range all {
		if rest, below := strings.CutPrefix(path, m.path); below && (rest == "" || rest[0] == '/') {
			return filepath.Join(m.folder, rest), true
		}
	}
	// Where parts of a volume are mounted as they are in it, the path over them is the volume's.
	for _, m := range all {
		if part, below := strings.CutPrefix(m.path, strings.TrimSuffix(path, "/")+"/"); below && m.volume != "" &&
			m.folder == filepath.Join(m.volume, part) {
			return m.volume, true
		}
	}
	return path, false
}

// bring tells whether a container's program is on a volume: another container has put it there, so what counts of this
// one is its image.
func (all mounts) bring(c *corev1.Container) bool {
	if len(c.Command) == 0 {
		return false
	}
	_, mapped := all.local(c.Command[0])
	return mapped
}

// inside are the mounts as a container has them.
func (all mounts) inside() []container.Mount {
	var list []container.Mount
	for _, m := range slices.Backward(all) { // the shorter paths first
		if len(m.links) == 0 {
			list = append(list, container.Mount{Path: m.path, Source: m.folder, ReadOnly: m.readOnly, Lent: m.lent})
			continue
		}
		// A link's target is not in the container.
		list = append(list, container.Mount{Path: m.path, ReadOnly: true})
		for _, key := range slices.Sorted(maps.Keys(m.links)) {
			list = append(list, container.Mount{Path: filepath.Join(m.path, key), Source: m.links[key], ReadOnly: true})
		}
	}
	return list
}

// make makes the folders and links there are not yet.
func (all mounts) make() error {
	for _, m := range all {
		if err := os.MkdirAll(m.folder, 0o755); err != nil {
			return err
		}
		if m.copied != "" {
			if err := copyFiles(m.copied, m.folder, 1); err != nil {
				return err
			}
		}
		for key, file := range m.links {
			// Several containers of a step may have the volume.
			if err := os.Symlink(file, filepath.Join(m.folder, key)); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		}
	}
	return nil
}

// copyFiles copies the files of a folder, and of folders in it to a depth. Other things than files and folders are left
// out, as a Secret has none.
func copyFiles(from, to string, depth int) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path, into := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case info.IsDir() && depth > 0:
			if err := os.MkdirAll(into, 0o700); err != nil {
				return err
			}
			if err := copyFiles(path, into, depth-1); err != nil {
				return err
			}
		case info.Mode().IsRegular():
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				return err
			}
			content, err := regularfile.Read(real, copyLimit)
			if err != nil {
				return err
			}
			if err := os.WriteFile(into, content, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// copyLimit is how large a copied file may be, in bytes, as with Secrets of Kubernetes.
const copyLimit = 1 << 20
