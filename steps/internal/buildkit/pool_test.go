package buildkit

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

func endpoints(n int) []endpoint {
	var all []endpoint
	for i := range n {
		name := fmt.Sprintf("tcp://buildkitd-%d.buildkitd.stepwright-buildkit.svc.cluster.local:1234", i)
		all = append(all, endpoint{name: name, address: name})
	}
	return all
}

// Components are spread evenly, always in the same way, and only those of a daemon that is gone go elsewhere.
func TestRank(t *testing.T) {
	t.Parallel()
	const components = 6000
	for _, n := range []int{1, 2, 3, 5, 10} {
		t.Run(fmt.Sprintf("%d daemons", n), func(t *testing.T) {
			all := endpoints(n)
			gone := all[0].name
			share, inherited := map[string]int{}, map[string]int{}
			for i := range components {
				component := fmt.Sprintf("acme/shop/component-%d", i)
				order, fewer := slices.Clone(all), slices.Clone(all[1:])
				slices.Reverse(order) // whatever order DNS gives
				rank(order, component)
				rank(fewer, component)
				share[order[0].name]++
				if order[0].name == gone && n > 1 {
					inherited[fewer[0].name]++
				}
				order = slices.DeleteFunc(order, func(e endpoint) bool { return e.name == gone })
				if !slices.EqualFunc(order, fewer, func(a, b endpoint) bool { return a.name == b.name }) {
					t.Fatalf("%s: the order of the others is %v, and %v without %s", component, order, fewer, gone)
				}
			}
			even := func(what string, counts map[string]int, of, among int) {
				for _, e := range all[len(all)-among:] {
					// Six standard deviations of a binomial distribution are less than this.
					want := float64(of) / float64(among)
					if off := float64(counts[e.name]) - want; off*off > 36*want {
						t.Errorf("%s of %s: %d of %d, want about %.0f", what, e.name, counts[e.name], of, want)
					}
				}
			}
			even("share", share, components, n)
			if n > 1 {
				even("inheritance", inherited, share[gone], n-1)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addresses string
		want      []string
	}{
		{"tcp://a:1", []string{"tcp://a:1"}},
		{"unix:///run/a,b.sock", []string{"unix:///run/a,b.sock"}},
		{"tcp://a:1,tcp://b:2", []string{"tcp://a:1", "tcp://b:2"}},
		{"unix:///a,b , tcp://c:3,unix:///d", []string{"unix:///a,b", "tcp://c:3", "unix:///d"}},
	}
	for _, test := range tests {
		if got := split(test.addresses); !slices.Equal(got, test.want) {
			t.Errorf("%q: %q, want %q", test.addresses, got, test.want)
		}
	}
}

// A host's name stands for the daemons that DNS has for it.
func TestResolve(t *testing.T) {
	t.Parallel()
	resolver := dnsServer(t, zone{
		srv: map[string][]string{"_buildkit._tcp.pool.svc.": {"d-0.pool.svc.", "d-1.pool.svc."}},
		a: map[string][]string{
			"pool.svc.": {"10.0.0.1", "10.0.0.2"}, "many.svc.": {"10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"},
			"one.svc.": {"10.0.0.1"}, "both.svc.": {"10.0.0.1", "fd00::1"}, "six.svc.": {"fd00::1", "fd00::2"},
		},
	})
	tests := []struct {
		name, address string
		want          []string
	}{
		{"by SRV records, with their ports", "tcp://pool.svc:1234", []string{
			"tcp://d-0.pool.svc:4321", "tcp://d-1.pool.svc:4321",
		}},
		{"by addresses", "tcp://many.svc:1234", []string{"tcp://10.0.0.1:1234", "tcp://10.0.0.2:1234"}},
		{"by addresses of IPv6", "tcp://six.svc:1234", []string{"tcp://[fd00::1]:1234", "tcp://[fd00::2]:1234"}},
		{"one address", "tcp://one.svc:1234", []string{"tcp://one.svc:1234"}},
		{"one daemon of two families", "tcp://both.svc:1234", []string{"tcp://both.svc:1234"}},
		{"no such name", "tcp://none.svc:1234", []string{"tcp://none.svc:1234"}},
		{"an address", "tcp://127.0.0.1:1234", []string{"tcp://127.0.0.1:1234"}},
		{"localhost", "tcp://localhost:1234", []string{"tcp://localhost:1234"}},
		{"a socket", "unix:///run/buildkit.sock", []string{"unix:///run/buildkit.sock"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, e := range (Pool{Resolver: resolver}).resolve(t.Context(), test.address, nil) {
				got = append(got, e.address)
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// A question that gets lost is asked again: the answer decides which daemon has the component's cache.
func TestResolveByAnUnreliableServer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		lost map[dnsmessage.Type]int
		want []string
	}{
		{"the first question for SRV records gets lost", map[dnsmessage.Type]int{dnsmessage.TypeSRV: 1},
			[]string{"tcp://d-0.pool.svc:4321", "tcp://d-1.pool.svc:4321"}},
		{"the first of each", map[dnsmessage.Type]int{
			dnsmessage.TypeSRV: 1, dnsmessage.TypeA: 1, dnsmessage.TypeAAAA: 1,
		}, []string{"tcp://d-0.pool.svc:4321", "tcp://d-1.pool.svc:4321"}},
		{"it never answers those for SRV records", map[dnsmessage.Type]int{dnsmessage.TypeSRV: 1000},
			[]string{"tcp://10.0.0.1:1234", "tcp://10.0.0.2:1234"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			resolver := dnsServer(t, zone{
				srv:  map[string][]string{"_buildkit._tcp.pool.svc.": {"d-0.pool.svc.", "d-1.pool.svc."}},
				a:    map[string][]string{"pool.svc.": {"10.0.0.1", "10.0.0.2"}},
				lost: test.lost,
			})
			var got []string
			for _, e := range (Pool{Resolver: resolver}).resolve(t.Context(), "tcp://pool.svc:1234", nil) {
				got = append(got, e.address)
			}
			slices.Sort(got)
			if !slices.Equal(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// zone is what a DNS server knows, by name: the targets of SRV records, whose port is 4321, and addresses. It loses as
// many of the first questions of a type as lost says.
type zone struct {
	srv, a map[string][]string
	lost   map[dnsmessage.Type]int
}

func (z zone) loses(question dnsmessage.Question) bool {
	if z.lost[question.Type] == 0 {
		return false
	}
	z.lost[question.Type]--
	return true
}

// dnsServer serves a zone on loopback.
func dnsServer(t *testing.T, z zone) *net.Resolver {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 || z.loses(m.Questions[0]) {
				continue
			}
			if answer, err := z.answer(m); err == nil {
				socket.WriteTo(answer, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
}

func (z zone) answer(m dnsmessage.Message) ([]byte, error) {
	question := m.Questions[0]
	name := strings.ToLower(question.Name.String())
	add := func(body dnsmessage.ResourceBody) {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Class: question.Class, TTL: 5}, Body: body,
		})
	}
	for _, target := range z.srv[name] {
		if question.Type == dnsmessage.TypeSRV {
			add(&dnsmessage.SRVResource{Port: 4321, Target: dnsmessage.MustNewName(target)})
		}
	}
	for _, text := range z.a[name] {
		switch a := netip.MustParseAddr(text); {
		case a.Is4() && question.Type == dnsmessage.TypeA:
			add(&dnsmessage.AResource{A: a.As4()})
		case a.Is6() && question.Type == dnsmessage.TypeAAAA:
			add(&dnsmessage.AAAAResource{AAAA: a.As16()})
		}
	}
	m.Header.Response, m.Header.RecursionAvailable = true, true
	if len(z.srv[name])+len(z.a[name]) == 0 {
		m.Header.RCode = dnsmessage.RCodeNameError
	}
	m.Additionals = nil
	return m.Pack()
}
