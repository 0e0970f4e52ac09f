package faults

import (
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// A resolver answers for the names of a site, over UDP and all with one list of addresses.
type resolver struct {
	socket net.PacketConn
	names  map[string]netip.Addr // with the final dot
	state  atomic.Int32
	heard  atomic.Int32
}

// What a resolver does.
const (
	answers int32 = iota
	silent        // as one that is gone: nothing comes back
	forgets       // says that no name exists
	failing       // says that it cannot tell
	losing        // hears of two questions only one
)

func newResolver(address string, names map[string]netip.Addr) (*resolver, error) {
	socket, err := net.ListenPacket("udp", address+":53")
	if err != nil {
		return nil, err
	}
	r := &resolver{socket: socket, names: names}
	go r.serve()
	return r, nil
}

func (r *resolver) serve() {
	packet := make([]byte, 1500)
	for {
		n, from, err := r.socket.ReadFrom(packet)
		if err != nil {
			return
		}
		state := r.state.Load()
		if state == silent || state == losing && r.heard.Add(1)%2 == 1 {
			continue
		}
		if answer := r.answer(packet[:n], state); answer != nil {
			r.socket.WriteTo(answer, from)
		}
	}
}

// answer is what the resolver sends back; nil where the question is none.
func (r *resolver) answer(packet []byte, state int32) []byte {
	var asked dnsmessage.Message
	if err := asked.Unpack(packet); err != nil || len(asked.Questions) != 1 {
		return nil
	}
	q := asked.Questions[0]
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: asked.ID, Response: true, Authoritative: true,
			RecursionDesired: asked.RecursionDesired, RecursionAvailable: true,
		},
		Questions: asked.Questions,
	}
	address, known := r.names[q.Name.String()]
	switch {
	case state == failing:
		m.RCode = dnsmessage.RCodeServerFailure
	case state == forgets || !known:
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
