package programs

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// What kind's node has of our own: a network that enforces policies, volumes, and a unit that imports images.
//
//go:embed node
var nodeFiles embed.FS

// nodeFilesKey names their content.
func nodeFilesKey() string {
	sum := sha256.New()
	// They are in this program, and so can be read.
	_ = fs.WalkDir(nodeFiles, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := nodeFiles.ReadFile(name)
		fmt.Fprintf(sum, "%s %x\n", name, sha256.Sum256(content))
		return err
	})
	return hex.EncodeToString(sum.Sum(nil))
}

// bases are systems of Debian packages.
type bases struct {
	node, commands       v1.Image
	nodeKey, commandsKey string // digests
}

func (b Builder) bases(ctx context.Context) (bases, error) {
	dir, err := baseimages.DefaultDir()
	if err != nil {
		return bases{}, err
	}
	store := baseimages.Store{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if err := store.Ensure(ctx, baseimages.KindNode, baseimages.KindCommands); err != nil {
		return bases{}, err
	}
	var all bases
	for ref, into := range map[string]struct {
		image *v1.Image
		key   *string
	}{
		baseimages.KindNode:     {&all.node, &all.nodeKey},
		baseimages.KindCommands: {&all.commands, &all.commandsKey},
	} {
		img, err := store.Image(ref)
		if err != nil {
			return bases{}, err
		}
		digest, err := img.Digest()
		if err != nil {
			return bases{}, err
		}
		*into.image, *into.key = img, digest.String()
	}
	return all, nil
}

// A nodeMaker makes the image of kind's node as kind's own build does, but with images that it imports when it starts:
// so no container has to run for it.
type nodeMaker struct {
	kubernetes       string // version
	set              Set
	bases            bases
	kubeadm, volumes string // folders of programs
}

// kubernetesNames are what Kubernetes' one program is called by.
var kubernetesNames = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl",
}

// partsImage is the one image of Kubernetes' components in containers, by a name of its own.
func (m nodeMaker) partsImage() string { return "localhost/stepwright/kubernetes:" + m.kubernetes }

func (m nodeMaker) make(ctx context.Context, b Builder, u unit, dir string) error {
	names, err := exec.CommandContext(
		ctx, filepath.Join(m.kubeadm, "kubeadm"), "config", "images", "list", "--kubernetes-version", m.kubernetes,
	).Output()
	if err != nil {
		return fmt.Errorf("kubeadm config images list: %w", err)
	}
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	if err := m.writeImages(images, strings.Fields(string(names))); err != nil {
		return err
	}
	img, err := m.image(ctx, b, u)
	if err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(images, "*.tar"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		img.files["kind/images/"+filepath.Base(archive)] = archive
	}
	if err := img.write(dir); err != nil {
		return err
	}
	return os.RemoveAll(images) // they are in the image
}

// writeImages writes what pods of the node run, by the names that kubeadm and our manifests have for it.
func (m nodeMaker) writeImages(dir string, names []string) error {
	parts := image{
		ref: m.partsImage(), base: m.bases.node, links: map[string]string{},
		files: map[string]string{
			"usr/local/bin/kubernetes":             filepath.Join(m.set.Kubernetes, "kubernetes"),
			"usr/local/bin/networkpolicies":        filepath.Join(m.set.Policies, "networkpolicies"),
			"usr/local/bin/local-path-provisioner": filepath.Join(m.volumes, "local-path-provisioner"),
		},
	}
	for _, name := range kubernetesNames {
		parts.links["usr/local/bin/"+name] = "kubernetes"
	}
	others := map[string]image{
		"coredns": {entrypoint: "/coredns", files: map[string]string{
			"coredns": filepath.Join(m.set.CoreDNS, "coredns"),
		}},
		"pause": {
			entrypoint: "/pause", user: "65535:65535",
			more:  []string{PauseImage}, // containerd's own, by kind's files: kubeadm may have another version
			files: map[string]string{"pause": filepath.Join(m.set.Pause, "pause")},
		},
	}
	for _, ref := range names {
		repository, _, _ := strings.Cut(path.Base(ref), ":")
		img, own := others[repository]
		if !own {
			parts.more = append(parts.more, ref)
			continue
		}
		img.ref = ref
		if err := img.write(dir); err != nil {
			return err
		}
	}
	return parts.write(dir)
}

// image is the node's, without its images.
func (m nodeMaker) image(ctx context.Context, b Builder, u unit) (image, error) {
	source, err := b.moduleDir(ctx, u.module, "sigs.k8s.io/kind")
	if err != nil {
		return image{}, err
	}
	spec, err := containerSpec(ctx, m.set)
	if err != nil {
		return image{}, err
	}
	img := image{
		ref: NodeImage(m.kubernetes), base: m.bases.node,
		config: v1.Config{
			Env: []string{"container=docker"}, StopSignal: "SIGRTMIN+3",
			Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"},
		},
		files: map[string]string{
			"usr/bin/kubelet": filepath.Join(m.set.Kubernetes, "kubernetes"),
			"usr/bin/kubeadm": filepath.Join(m.kubeadm, "kubeadm"),
			// A pod's containers, by kind's units.
			"usr/local/sbin/runc": filepath.Join(m.set.Runc, "runc"),
		},
		links: map[string]string{
			"usr/sbin/init":   "/usr/lib/systemd/systemd",
			"usr/bin/kubectl": "kubelet",
			"etc/systemd/system/systemd-binfmt.service": "/dev/null", // what it registers is the machine's
		},
		texts: map[string]string{
			"kind/version":                          m.kubernetes,
			"etc/containerd/cri-base.json":          string(spec),
			"etc/kubernetes/manifests/":             "",
			"etc/systemd/journald.conf.d/kind.conf": "[Journal]\nReadKMsg=no\n",
		},
		executable: func(name string) bool {
			return strings.HasPrefix(name, "kind/bin/") || strings.HasPrefix(name, "usr/local/bin/")
		},
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		img.files["usr/local/bin/"+program] = filepath.Join(m.set.Containerd, program)
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
		img.files["opt/cni/bin/"+plugin] = filepath.Join(m.set.Containerd, plugin)
	}
	// The units that kind does without.
	const units = "usr/lib/systemd/system/"
	for _, gone := range []string{
		"multi-user.target.wants/.wh..wh..opq", "local-fs.target.wants/.wh..wh..opq", "basic.target.wants/.wh..wh..opq",
		"sysinit.target.wants/.wh.systemd-tmpfiles-setup.service", "sockets.target.wants/.wh.systemd-initctl.socket",
	} {
		img.texts[units+gone] = ""
	}
	img.texts["etc/systemd/system/multi-user.target.wants/.wh..wh..opq"] = ""
	for _, unit := range []string{"kubelet", "containerd", "undo-mount-hacks", "kind-images"} {
		const own = "etc/systemd/system/"
		img.links[own+"multi-user.target.wants/"+unit+".service"] = "/" + own + unit + ".service"
	}
	if err := img.addTexts(os.DirFS(filepath.Join(source, "images", "base", "files")), m.partsImage()); err != nil {
		return image{}, err
	}
	own, err := fs.Sub(nodeFiles, "node")
	if err != nil {
		return image{}, err
	}
	return img, img.addTexts(own, m.partsImage())
}

// addTexts adds a folder's files, which may name the image of Kubernetes' components {{PARTS}}.
func (i image) addTexts(from fs.FS, parts string) error {
	return fs.WalkDir(from, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(from, name)
		i.texts[name] = strings.ReplaceAll(string(content), "{{PARTS}}", parts)
		return err
	})
}

// makeCommands makes the image of the container that commands run in.
func (m nodeMaker) makeCommands(_ context.Context, _ Builder, _ unit, dir string) error {
	return image{
		ref: CommandsImage, base: m.bases.commands,
		config: v1.Config{Cmd: []string{"sleep", "infinity"}},
		files:  map[string]string{"usr/local/bin/kubectl": filepath.Join(m.set.Kubernetes, "kubernetes")},
	}.write(dir)
}
