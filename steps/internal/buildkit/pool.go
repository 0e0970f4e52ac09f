package buildkit

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Pool is one or more BuildKit daemons, each with a cache of its own. A component's builds go to one of them, which the
// component's name and the daemons' names decide on: when a daemon goes, only the components that it had go elsewhere.
type Pool struct {
	// Addresses are unix:// and tcp:// addresses, separated by commas. A host's name stands for as many daemons as it
	// has SRV records of the service buildkit, or else addresses: with SRV records, as a headless Service of Kubernetes
	// has them for a port of that name, a daemon that has moved to another address is still the same.
	Addresses string
	TLSDir    string        // for mutual TLS: ca.crt, tls.crt, tls.key; empty: tcp addresses must be on loopback
	Component string        // whose build it is; empty: one without a name, which any daemon may have
	Wait      time.Duration // how long the daemons may take until one of them answers
	Resolver  *net.Resolver // of hosts' names; nil: the system's
}

// SRVService is the service of the SRV records that name the daemons of a host, and the name of a Service's port.
const SRVService = "buildkit"

// head is how long a daemon has to answer before the next one in the component's order is asked, too. round is how long
// the same addresses are asked before their names are looked up again.
const (
	head  = 3 * time.Second
	round = 5 * time.Second
)

// tries are how long each try of a question to DNS may take. The system asks again after 5 s only: one datagram lost,
// and the component's daemon was not found in time, and the build went to one without its cache. The last try is long
// enough for a second server.
var tries = []time.Duration{time.Second, 2 * time.Second, 6 * time.Second}

// endpoint is a daemon of a pool.
type endpoint struct {
	name    string // the same for as long as it has the same cache
	address string // what it is dialled by
	options []client.ClientOpt
}

// Dial connects to the component's daemon, or to the next one in its order that answers, and waits until it has a
// worker: its socket is there before that.
func (p Pool) Dial(ctx context.Context) (*BuildKit, error) { return p.dial(ctx, "") }

// dial is Dial where the daemon of the name lost comes last.
func (p Pool) dial(ctx context.Context, lost string) (*BuildKit, error) {
	type host struct {
		address string
		options []client.ClientOpt
	}
	var hosts []host
	for _, address := range split(p.Addresses) {
		options, err := transport(address, p.TLSDir)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, host{address, options})
	}
	component := p.Component
	if component == "" {
		component = rand.Text()
	}
	waiting, cancel := context.WithTimeout(ctx, p.Wait)
	defer cancel()
	for {
		var all []endpoint
		for _, h := range hosts {
			all = append(all, p.resolve(waiting, h.address, h.options)...)
		}
		rank(all, component)
		if at := slices.IndexFunc(all, func(e endpoint) bool { return e.name == lost }); at >= 0 {
			all = append(slices.Delete(slices.Clone(all), at, at+1), all[at])
		}
		builder, err := first(waiting, all)
		if err == nil {
			builder.pool = &p
			return builder, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if waiting.Err() == nil {
			continue
		}
		hint := "Check buildkit-address, that the daemon runs and accepts the certificates in buildkit-tls-dir."
		if len(all) == 1 {
			return nil, outcome.Errorf(
				outcome.BuilderUnavailable, "BuildKit at %s does not answer within %v: %w", all[0].address, p.Wait, err,
			).WithHint(hint)
		}
		return nil, outcome.Errorf(
			outcome.BuilderUnavailable, "none of the %d BuildKit daemons at %s answers within %v: %w", len(all),
			p.Addresses, p.Wait, err,
		).WithHint(hint)
	}
}

// resolve returns the daemons of an address: the address itself, unless its host's name stands for several.
func (p Pool) resolve(ctx context.Context, address string, options []client.ClientOpt) []endpoint {
	itself := []endpoint{{address, address, options}}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "tcp" || u.Hostname() == "localhost" {
		return itself
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return itself
	}
	at := func(host, port string) endpoint {
		address := "tcp://" + net.JoinHostPort(host, port)
		return endpoint{address, address, options}
	}
	var records []*net.SRV
	var addresses []netip.Addr
	var looking sync.WaitGroup
	looking.Go(func() {
		records = lookUp(ctx, func(ctx context.Context) ([]*net.SRV, error) {
			_, found, err := p.Resolver.LookupSRV(ctx, SRVService, "tcp", u.Hostname())
			return found, err
		})
	})
	looking.Go(func() {
		addresses = lookUp(ctx, func(ctx context.Context) ([]netip.Addr, error) {
			return p.Resolver.LookupNetIP(ctx, "ip", u.Hostname())
		})
	})
	looking.Wait()
	var all []endpoint
	for _, r := range records {
		all = append(all, at(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
	}
	if len(all) > 0 {
		return all
	}
	// A daemon may have an address of each family.
	is4 := func(a netip.Addr) bool { return a.Unmap().Is4() }
	if slices.ContainsFunc(addresses, is4) {
		addresses = slices.DeleteFunc(addresses, func(a netip.Addr) bool { return !is4(a) })
	}
	if len(addresses) < 2 {
		return itself // If there is none, the connection's error says so.
	}
	for _, a := range addresses {
		all = append(all, at(a.Unmap().String(), u.Port()))
	}
	return all
}

// lookUp asks DNS, and once more where it has not said that there is no such name. Without an answer it returns
// nothing.
func lookUp[T any](ctx context.Context, ask func(context.Context) ([]T, error)) []T {
	for _, limit := range tries {
		try, cancel := context.WithTimeout(ctx, limit)
		found, err := ask(try)
		cancel()
		var failure *net.DNSError
		if err == nil || errors.As(err, &failure) && failure.IsNotFound || ctx.Err() != nil {
			return found
		}
	}
	return nil
}

// rank brings daemons into a component's order, by rendezvous hashing: each pair of daemons has the same order whatever
// others there are.
func rank(all []endpoint, component string) {
	score := func(e endpoint) uint64 {
		sum := sha256.Sum256([]byte(component + "\x00" + e.name))
		return binary.BigEndian.Uint64(sum[:])
	}
	slices.SortFunc(all, func(a, b endpoint) int {
		return cmp.Or(cmp.Compare(score(b), score(a)), cmp.Compare(a.name, b.name))
	})
}

// first connects to the first daemon that answers, asked one after the other. It gives up after a round.
func first(ctx context.Context, all []endpoint) (*BuildKit, error) {
	ctx, cancel := context.WithTimeout(ctx, round)
	var asking sync.WaitGroup
	connected := make(chan *BuildKit) // closed after all have answered or given up
	done := sync.OnceFunc(func() {
		go func() {
			asking.Wait()
			close(connected)
		}()
	})
	faults := make([]error, len(all))
	defer func() {
		cancel()
		done()
		go func() {
			for late := range connected {
				late.Close()
			}
		}()
	}()
	for i, e := range all {
		failed := make(chan struct{})
		asking.Go(func() {
			told := sync.OnceFunc(func() { close(failed) })
			for {
				builder, err := e.connect(ctx)
				if err == nil {
					connected <- builder
					return
				}
				// Of the last try, which the end of the round has cut off, there is nothing to tell.
				if ctx.Err() == nil || faults[i] == nil {
					faults[i] = err
					if len(all) > 1 {
						faults[i] = fmt.Errorf("%s: %w", e.address, err)
					}
				}
				told()
				select {
				case <-ctx.Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		select {
		case builder := <-connected:
			return builder, nil
		case <-failed:
		case <-time.After(head):
		case <-ctx.Done():
		}
	}
	done()
	if builder := <-connected; builder != nil {
		return builder, nil
	}
	return nil, errors.Join(faults...)
}

// connect connects to a daemon that has a worker.
func (e endpoint) connect(ctx context.Context) (*BuildKit, error) {
	l := &line{ended: make(chan struct{})}
	c, err := client.New(ctx, e.address, append(slices.Clip(e.options),
		client.WithGRPCDialOption(grpc.WithStatsHandler(l)),
		// A machine that has vanished says nothing. A daemon takes more than one ping in five minutes for an attack.
		client.WithGRPCDialOption(grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 6 * time.Minute, Timeout: time.Minute,
		})))...)
	if err != nil {
		return nil, err
	}
	workers, err := c.ListWorkers(ctx)
	if err == nil && len(workers) == 0 {
		err = errors.New("it has no worker")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	builder := &BuildKit{Client: c, Address: e.address, name: e.name, line: l, close: c.Close}
	if offers := workers[0].Platforms; len(offers) > 0 {
		builder.Platform = &offers[0] // what the frontend takes
	}
	return builder, nil
}

// Move connects to the next daemon in the component's order in place of the one that is lost, which comes last. A
// BuildKit that has no other daemon to go to, or has moved before, does not: it returns false.
func (b *BuildKit) Move(ctx context.Context) (bool, error) {
	if b.pool == nil || b.Lost != "" {
		return false, nil
	}
	next, err := b.pool.dial(ctx, b.name)
	if err != nil {
		return false, err
	}
	b.close()
	next.Lost = b.Address
	*b = *next
	return true, nil
}

// IsLost tells whether an error means that the builder is gone: the connection to it ended. What a daemon itself
// reports, be it that something is unavailable, is no such error.
func (b *BuildKit) IsLost(err error) bool {
	if _, failed := errors.AsType[*errdefs.VertexError](err); failed || grpcerrors.Code(err) != codes.Unavailable {
		return false
	}
	if b.line == nil {
		return true
	}
	select {
	case <-b.line.ended: // it is told after the calls have ended
		return true
	case <-time.After(2 * time.Second):
		return false
	}
}

// line watches a connection.
type line struct {
	once  sync.Once
	ended chan struct{}
}

func (l *line) HandleConn(_ context.Context, s stats.ConnStats) {
	if _, is := s.(*stats.ConnEnd); is {
		l.once.Do(func() { close(l.ended) })
	}
}

func (l *line) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (l *line) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (l *line) HandleRPC(context.Context, stats.RPCStats) {}
