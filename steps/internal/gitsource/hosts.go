package gitsource

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/internal/outcome"
)

// hostList are the Git servers that a secret may be shown to.
type hostList []hostPattern

// hostPattern stands for one server, or for those that differ in the labels where it has an asterisk.
type hostPattern struct {
	host string // in lower case; empty for every host
	port string // empty for the scheme's own, * for every port
}

var everyHost = hostPattern{port: "*"}

// parseHosts reads a list of hosts, divided by commas or spaces: git.example.com, git.example.com:8443,
// git.example.com:* for every port, *.example.com for one label in place of the asterisk, and * for every host.
func parseHosts(text string) (hostList, error) {
	list := hostList{}
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
		p, err := parseHost(strings.ToLower(entry))
		if err != nil {
			return nil, fmt.Errorf("%.100q %w", entry, err)
		}
		list = append(list, p)
	}
	return list, nil
}

func parseHost(entry string) (hostPattern, error) {
	if entry == "*" {
		return everyHost, nil
	}
	p := hostPattern{host: entry}
	if _, err := netip.ParseAddr(entry); err != nil {
		if host, port, err := net.SplitHostPort(entry); err == nil {
			p = hostPattern{host, port}
			if port == "" {
				return p, fmt.Errorf("has no port after the colon")
			}
		}
	}
	if bare, ok := strings.CutPrefix(p.host, "["); ok {
		p.host = strings.TrimSuffix(bare, "]")
	}
	p.host = strings.TrimSuffix(p.host, ".")
	if p.port != "*" && strings.Trim(p.port, "0123456789") != "" || len(p.port) > 5 {
		return p, fmt.Errorf("has no valid port")
	}
	if address, err := netip.ParseAddr(p.host); err == nil {
		p.host = address.String()
		return p, nil
	}
	labels := strings.Split(p.host, ".")
	for i, label := range labels {
		switch {
		case label == "*" && i < len(labels)-2:
		case label == "" || len(label) > 63 || strings.Trim(label, "-_0123456789abcdefghijklmnopqrstuvwxyz") != "":
			return p, fmt.Errorf("is no host: give it without a scheme and path, with an asterisk only in place of " +
				"a whole label before the last two")
		}
	}
	return p, nil
}

// names tells whether the list has the server.
func (l hostList) names(r Remote) bool {
	host := strings.TrimSuffix(strings.ToLower(r.Host), ".")
	if address, err := netip.ParseAddr(host); err == nil {
		host = address.String()
	}
	_, port, _ := net.SplitHostPort(r.address())
	usual := r
	usual.Port = ""
	_, own, _ := net.SplitHostPort(usual.address())
	return slices.ContainsFunc(l, func(p hostPattern) bool {
		return p.covers(host) && (p.port == "*" || p.port == port || p.port == "" && port == own)
	})
}

func (p hostPattern) covers(host string) bool {
	if p.host == "" || p.host == host {
		return true
	}
	want, got := strings.Split(p.host, "."), strings.Split(host, ".")
	return len(want) == len(got) && slices.EqualFunc(want, got, func(a, b string) bool {
		return a == b || a == "*" && b != ""
	})
}

// loopback tells whether a server is on this machine, so that nothing on the way can listen.
func (r Remote) loopback() bool {
	address, err := netip.ParseAddr(r.Host)
	return r.Host == "localhost" || err == nil && address.IsLoopback()
}

// server is the host, with its port where that is not the scheme's own, as a hostList has it. A host that is not ASCII
// is quoted, so that nobody takes it for one that it looks like.
func (r Remote) server() string {
	host := r.authority()
	if strings.ContainsFunc(host, func(c rune) bool { return c > '~' }) {
		return fmt.Sprintf("%+q", host)
	}
	return host
}

// allowed is nil where the Git secret may be shown to a server, and else says why not. It is asked before anything of
// the secret is sent.
func (c *client) allowed(to Remote) error {
	if !c.hosts.names(to) {
		whose := "the Git secret names no host, and the parameter git-secret-hosts does not have this one"
		if c.hostsOfSecret {
			whose = "the Git secret does not name that host"
		}
		return outcome.Errorf(
			outcome.AuthenticationFailed, "the Git secret is not sent to %s: %s", to.server(), whose,
		).
			WithHint(fmt.Sprintf("If the secret is meant for it, name %s in the annotation stepwright.dev/git-hosts "+
				"in spec.template.metadata.annotations of the SecretReference, or let a platform engineer add it to "+
				"the setting git-secret-hosts.", to.server()))
	}
	if to.Scheme == "http" && !c.insecure && !to.loopback() {
		return outcome.Errorf(
			outcome.AuthenticationFailed, "the Git secret is not sent to %s over plain HTTP, where everybody on the "+
				"way can read it", to.server(),
		).
			WithHint("Use the repository's https URL. Where there is none, the parameter insecure-git-http sends the " +
				"secret all the same.")
	}
	return nil
}
