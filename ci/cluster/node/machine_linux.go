package node

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Furnish gives the namespaces the parts of a machine: mounts, control groups, a host name and a network. It runs
// inside them, once.
func (s State) Furnish() error {
	for _, furnish := range []func() error{s.mount, s.makeCgroups, name, network, s.files} {
		if err := furnish(); err != nil {
			return err
		}
	}
	return nil
}

// FurnishEngine gives the namespaces what an engine for containers needs: mounts, folders for all that it keeps, and a
// host name. Its containers have networks among themselves.
func (s State) FurnishEngine() error {
	for _, furnish := range []func() error{s.mount, name, loopback, s.engineFiles} {
		if err := furnish(); err != nil {
			return err
		}
	}
	return nil
}

// engineFolder is where podman keeps images, containers and volumes.
const engineFolder = "/var/lib/containers"

// engineFiles mounts the engine's folder, which cannot be in the overlay, for containers have overlays in theirs.
func (s State) engineFiles() error {
	if err := errors.Join(os.MkdirAll(s.Path("containers"), 0o700), os.MkdirAll(engineFolder, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(s.Path("containers"), engineFolder, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the engine's folder: %w", err)
	}
	// kind gives it to its node. A kernel without modules has none.
	if _, err := os.Stat("/lib/modules"); errors.Is(err, fs.ErrNotExist) {
		lib, err := filepath.EvalSymlinks("/lib")
		if err != nil {
			return err
		}
		if err := errors.Join(s.overlay(lib), os.Mkdir("/lib/modules", 0o755)); err != nil {
			return err
		}
	}
	for file, content := range map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost " + Name + "\n",
		"/etc/resolv.conf": "nameserver 192.0.2.1\n", // that is nobody
	} {
		// It may be a link into /run.
		if err := os.RemoveAll(file); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mount keeps mounts, and changes to the machine's folders, inside the namespaces.
func (s State) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for _, dir := range []string{"/etc", "/var"} {
		if err := s.overlay(dir); err != nil {
			return err
		}
	}
	// Where pods with a hostPath look for it, such as those that install seccomp profiles. It cannot be in the overlay,
	// for pods have overlays in theirs.
	if err := errors.Join(os.MkdirAll(s.Path("kubelet"), 0o755), os.MkdirAll(Kubelet, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount(s.Path("kubelet"), Kubelet, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the kubelet's folder: %w", err)
	}
	// Kubelets hand their mounts to containers by propagation.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts with containers: %w", err)
	}
	for _, dir := range []string{"/run/netns", "/run/lock", "/var/log/pods", "/var/log/containers", "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// overlay keeps what is written to a folder of the machine's.
func (s State) overlay(dir string) error {
	upper, work := s.Path("overlay"+dir, "upper"), s.Path("overlay"+dir, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+
		work); err != nil {
		return fmt.Errorf(
			"mount an overlay on %s; the state must be in a folder of a file system that can be an overlay's "+
				"upper layer (%s): %w",
			dir, s.Dir, err,
		)
	}
	return nil
}

func name() error {
	return unix.Sethostname([]byte(Name))
}

func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// network makes a bridge with the node's address. There is no way out.
func network() error {
	if err := loopback(); err != nil {
		return err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "node0"
	bridge := &netlink.Bridge{LinkAttrs: attributes}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	address, err := netlink.ParseAddr(Address + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	// Kubernetes' components want a default route, to know which address is theirs.
	if err := netlink.RouteAdd(&netlink.Route{
		LinkIndex: bridge.Index,
		Scope:     netlink.SCOPE_LINK,
		Dst:       &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}); err != nil {
		return fmt.Errorf("make the default route: %w", err)
	}
	const bridgeFilter = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if err := loadBridgeFilter(bridgeFilter); err != nil {
		return err
	}
	for file, without := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "no pod reaches another",
		bridgeFilter:                    "no pod reaches a service",
	} {
		if err := os.WriteFile(file, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("without this %s: %w", without, err)
		}
	}
	return nil
}

// loadBridgeFilter has the kernel load the module, which it does not load by itself when it is used, unless the file
// that comes with it is there.
func loadBridgeFilter(proof string) error {
	const module = "br_netfilter"
	if _, err := os.Stat(proof); err == nil {
		return nil
	}
	if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
		return fmt.Errorf(
			"the kernel lacks %s, without which no pod reaches a service; modprobe %s: %v\n%s", module, module, err,
			out,
		)
	}
	return nil
}

// files writes how names are resolved.
func (s State) files() error {
	for file, content := range map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost " + Name + "\n",
		"/etc/resolv.conf": "nameserver " + DNS + "\noptions timeout:2\n",
	} {
		// It may be a link into /run.
		if err := os.RemoveAll(file); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
