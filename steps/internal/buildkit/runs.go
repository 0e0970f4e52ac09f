package buildkit

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/executor"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/resolvconf"

	"github.com/stepwright/stepwright/steps/internal/userns"
)

// runs executes every RUN: BuildKit's own executor does, after what it has no option for.
type runs struct {
	executor.Executor
	ids userns.IDs
}

// Run lets a RUN find hosts by the names by which this process finds them. It is in the same network, so that even a
// name server on a loopback address answers it. BuildKit, which does not rely on that, would ask Google's instead.
func (r runs) Run(
	ctx context.Context, id string, root executor.Mount, mounts []executor.Mount, process executor.ProcessInfo,
	started chan<- struct{},
) (types.Recorder, error) {
	if err := r.checkUser(process.Meta.User); err != nil {
		return nil, err
	}
	if process.Meta.NetMode == pb.NetMode_UNSET && slices.ContainsFunc(process.Meta.Env, isScan) {
		process.Meta.NetMode = pb.NetMode_NONE
	}
	if process.Meta.NetMode == pb.NetMode_UNSET {
		process.Meta.NetMode = pb.NetMode_HOST // which is the same network, with its resolv.conf
		known, err := hosts(hostsFile)
		if err != nil {
			return nil, err
		}
		process.Meta.ExtraHosts = append(slices.Clone(process.Meta.ExtraHosts), known...)
	}
	return r.Executor.Run(ctx, id, root, mounts, process, started)
}

// isScan tells of a variable whether it is the one by which BuildKit tells a scanner where to leave its list. A scanner
// sees all that an image holds, and needs no network.
func isScan(variable string) bool { return strings.HasPrefix(variable, "BUILDKIT_SCAN_DESTINATION=") }

// checkUser refuses a user, as in USER, that is a number and does not exist in this namespace. runc's own words for it
// name nobody.
func (r runs) checkUser(user string) error {
	name, group, _ := strings.Cut(user, ":")
	uid, _ := strconv.Atoi(name) // what is not a number is the image's to know
	gid, _ := strconv.Atoi(group)
	if who := r.ids.Lacks(uid, gid); who != "" {
		return &stranger{who: who, what: "USER", here: r.ids}
	}
	return nil
}

const hostsFile = "/etc/hosts"

// hosts reads the lines of a file such as /etc/hosts: of each, the address and all names. There need not be one.
func hosts(file string) ([]executor.HostIP, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var known []executor.HostIP
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		// An address with a zone is one of this machine's interfaces, such as fe80::1%lo0, and BuildKit takes none.
		if ip, err := netip.ParseAddr(fields[0]); err == nil && ip.Zone() == "" {
			known = append(known, executor.HostIP{Host: strings.Join(fields[1:], " "), IP: net.IP(ip.AsSlice())})
		}
	}
	return known, lines.Err()
}

// nameServers is what a RUN has in place of the name servers of a file such as /etc/resolv.conf; nil: those. Where
// there are none, the C library asks this machine.
func nameServers(file string) (*oci.DNSConfig, error) {
	known, err := resolvconf.Load(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if len(known.NameServers()) > 0 {
		return nil, nil
	}
	return &oci.DNSConfig{Nameservers: []string{"127.0.0.1"}}, nil
}
