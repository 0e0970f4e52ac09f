// Package buildkit opens a BuildKit to build with: one of the process's own, or a daemon's. Both are spoken to by the
// same client.
//
// BuildKit's daemon is part of this executable. It runs in a child process (the executable started once more) and
// speaks over a socket pair: nothing listens, nothing is left behind when the step dies, and where the step is not
// root, the child alone is root, of a user namespace of its own. What the step itself holds stays out of the reach of
// the build.
package buildkit

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/buildkit/client"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // gRPC's own refuses names of files that are no UTF-8
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// BuildKit is a builder that is ready.
type BuildKit struct {
	*client.Client
	Isolation Isolation         // of its RUNs; empty: a daemon's, which does not say
	Platform  *ocispec.Platform // of a daemon's machine; nil: this machine's
	Address   string            // of the daemon; empty: it is the process's own
	Lost      string            // address of the daemon that was lost before; empty: none was
	close     func() error

	pool *Pool // nil: it is the process's own, and so are the others
	name string
	line *line
}

// Close ends the connection, and the builder if it is the process's own. It returns how that ended if it did not end
// well, every time it is called.
func (b *BuildKit) Close() error { return b.close() }

// transport checks how the daemon is to be reached before anything is sent to it.
func transport(address, tlsDir string) ([]client.ClientOpt, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "buildkit-address: %w", err)
	}
	if u.Scheme != "tcp" {
		return nil, nil
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return nil, outcome.Errorf(outcome.InvalidParameters, "buildkit-address: %w", err)
	}
	if tlsDir == "" {
		if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() == "localhost" || err == nil && ip.IsLoopback() {
			return nil, nil
		}
		return nil, outcome.Errorf(
			outcome.InvalidParameters, "buildkit-address: %s is not on this machine, and buildkit-tls-dir is empty",
			address,
		).
			WithHint("Whoever can speak to a BuildKit daemon can build on it and read its cache: use mutual TLS.")
	}
	ca, cert, key := filepath.Join(tlsDir, "ca.crt"), filepath.Join(tlsDir, "tls.crt"), filepath.Join(tlsDir, "tls.key")
	for _, file := range []string{ca, cert, key} {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, outcome.Errorf(outcome.InvalidParameters, "buildkit-tls-dir: %w", err)
		}
	}
	return []client.ClientOpt{client.WithServerConfig(u.Hostname(), ca), client.WithCredentials(cert, key)}, nil
}

// Config is how a builder of the process's own works.
type Config struct {
	Root      string            // directory of its state; it is made when absent
	Temporary bool              // whether Root is removed at the end
	Mirrors   []registry.Mirror // asked before the registry itself, in this order
	Insecure  []string          // hosts, with port if they have one, that are spoken to over plain HTTP
	CABundle  string            // PEM file of certificate authorities to trust besides the system's; may be empty

	Credentials *registry.Credentials // to pull with; may be nil
	// Times is the time of files of layers in place of each that the build's clock has given; whole seconds. With nil,
	// files keep theirs.
	Times *time.Time
	// Compression is how layers are compressed that the build makes.
	Compression Compression
	// Mounts is how cache mounts are kept. With nil, they are not, but in Root.
	Mounts *Mounts
	// Outlines are what earlier builds knew of files. They spare layers that Root has not.
	Outlines []Outline
}

// keep is how many bytes of layers and cache a Root that is kept may hold. What was not used for longest goes first.
const keep = 10 << 30
