package gitsource

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/outcome"
)

// wellKnown are the keys of github.com, gitlab.com, bitbucket.org and Azure DevOps, checked against the fingerprints
// they publish.
//
//go:embed known_hosts
var wellKnown []byte

// knownHosts are the lines of a known_hosts file, read as OpenSSH does (sshd(8)): a line that cannot be read is
// skipped. golang.org/x/crypto/ssh/knownhosts refuses the whole file for one such line, minds the case of names, and
// does not know that a line without a port is also for other ports.
type knownHosts struct {
	lines      []hostLine
	unreadable []int // numbers of lines
}

// hostLine says that the hosts that match one of the patterns have a key, or that it is an authority's, or revoked.
type hostLine struct {
	number   int
	marker   string // empty, @cert-authority or @revoked
	patterns string
	key      ssh.PublicKey
}

func parseKnownHosts(raw []byte) knownHosts {
	var k knownHosts
	number := 0
	for line := range bytes.Lines(raw) {
		number++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		l := hostLine{number: number}
		if strings.HasPrefix(fields[0], "@") {
			l.marker, fields = fields[0], fields[1:]
		}
		if len(fields) >= 3 && slices.Contains([]string{"", authority, revoked}, l.marker) {
			l.patterns = fields[0]
			if blob, err := base64.StdEncoding.DecodeString(fields[2]); err == nil {
				l.key, _ = ssh.ParsePublicKey(blob)
			}
		}
		if l.key == nil || l.key.Type() != fields[1] {
			k.unreadable = append(k.unreadable, number)
			continue
		}
		k.lines = append(k.lines, l)
	}
	return k
}

const (
	authority = "@cert-authority"
	revoked   = "@revoked"
)

// of returns the lines with that marker that match a host.
func (k knownHosts) of(host, marker string) []hostLine {
	var found []hostLine
	for _, l := range k.lines {
		if l.marker == marker && l.matches(host) {
			found = append(found, l)
		}
	}
	return found
}

func (l hostLine) matches(host string) bool {
	if hashed, ok := strings.CutPrefix(l.patterns, "|1|"); ok {
		salt, sum, _ := strings.Cut(hashed, "|")
		key, err := base64.StdEncoding.DecodeString(salt)
		want, werr := base64.StdEncoding.DecodeString(sum)
		h := hmac.New(sha1.New, key)
		h.Write([]byte(host))
		return err == nil && werr == nil && hmac.Equal(want, h.Sum(nil))
	}
	found := false
	for pattern := range strings.SplitSeq(strings.ToLower(l.patterns), ",") {
		plain, negated := strings.CutPrefix(pattern, "!")
		if !wildcard(plain, host) {
			continue
		}
		if negated {
			return false
		}
		found = true
	}
	return found
}

// wildcard tells whether a pattern of OpenSSH's, with * and ?, matches all of a text.
func wildcard(pattern, text string) bool {
	for i := 0; i < len(pattern); i++ {
		switch {
		case pattern[i] == '*':
			pattern = strings.TrimLeft(pattern[i:], "*")
			for ; ; text = text[1:] {
				if pattern == "" || wildcard(pattern, text) {
					return true
				}
				if text == "" {
					return false
				}
			}
		case text == "", pattern[i] != '?' && pattern[i] != text[0]:
			return false
		}
		text = text[1:]
	}
	return text == ""
}

// hostNames are the names under which known_hosts may have the server at an address, in OpenSSH's order: a line without
// a port is asked after those for the port.
func hostNames(address string) []string {
	host, port, err := net.SplitHostPort(strings.ToLower(address))
	if err != nil {
		return []string{strings.ToLower(address)}
	}
	if port == "22" {
		return []string{host}
	}
	return []string{"[" + host + "]:" + port, host}
}

// hostKeys says which key a server must have: by the secret's known_hosts when that names the server, else by the
// built-in one.
type hostKeys struct {
	own, builtIn knownHosts
}

func newHostKeys(own []byte) *hostKeys {
	return &hostKeys{own: parseKnownHosts(own), builtIn: parseKnownHosts(wellKnown)}
}

// known returns the keys that the server at address may have, none for an unknown server, and the file that has the
// word on it.
func (h *hostKeys) known(address string) ([]ssh.PublicKey, knownHosts) {
	for _, file := range []knownHosts{h.own, h.builtIn} {
		var keys []ssh.PublicKey
		for _, name := range hostNames(address) {
			for _, l := range file.of(name, "") {
				keys = append(keys, l.key)
			}
		}
		if len(keys) > 0 {
			return keys, file
		}
	}
	return nil, h.own // an unknown server may still show a certificate of an authority that the secret trusts
}

// algorithms are those a server must be asked for so that it shows a key that is known, and not another one it also
// has; for an unknown server, all that are safe. A certificate is asked for only where an authority may have signed it.
func (k knownHosts) algorithms(address string, keys []ssh.PublicKey) []string {
	certified := slices.ContainsFunc(hostNames(address), func(name string) bool {
		return len(k.of(name, authority)) > 0
	})
	var out []string
	for _, algorithm := range ssh.SupportedAlgorithms().HostKeys {
		plain, certificate := strings.CutSuffix(algorithm, "-cert-v01@openssh.com")
		if certificate && !certified {
			continue
		}
		if plain == ssh.KeyAlgoRSASHA256 || plain == ssh.KeyAlgoRSASHA512 {
			plain = ssh.KeyAlgoRSA
		}
		if certificate || len(keys) == 0 || slices.ContainsFunc(keys, func(key ssh.PublicKey) bool {
			return key.Type() == plain
		}) {
			out = append(out, algorithm)
		}
	}
	return out
}

// require makes config accept only a key of the server at address that is known.
func (h *hostKeys) require(config *ssh.ClientConfig, address string) {
	keys, file := h.known(address)
	names := hostNames(address)
	config.HostKeyAlgorithms = file.algorithms(address, keys)
	config.HostKeyCallback = func(hostname string, remote net.Addr, key ssh.PublicKey) error {
		shown := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
		if cert, ok := key.(*ssh.Certificate); ok {
			err := file.certified(names, hostname, remote, cert)
			if err != errNoAuthority {
				return err
			}
			key = cert.Key // OpenSSH, too, falls back to the key in a certificate of an unknown authority
		}
		for _, name := range names {
			if line, ok := file.find(name, revoked, key); ok {
				return outcome.Errorf(
					outcome.HostKeyUnknown, "the host key of %s, %s, is revoked by line %d of known_hosts", names[0],
					shown, line.number,
				)
			}
		}
		for _, name := range names {
			if _, ok := file.find(name, "", key); ok {
				return nil
			}
			if slices.ContainsFunc(file.of(name, ""), func(l hostLine) bool { return l.key.Type() == key.Type() }) {
				break // the port's own line has the word before the one without a port
			}
		}
		if len(keys) > 0 {
			return outcome.Errorf(
				outcome.HostKeyUnknown, "%s shows the host key %s, which is not the one that is known, %s", names[0],
				shown, fingerprints(keys),
			).
				WithHint("Someone may be between this cluster and the server. If the server's key did change, put " +
					"the new one into known_hosts of the Git secret.")
		}
		err := outcome.Errorf(
			outcome.HostKeyUnknown, "%s shows the host key %s, and no key of that host is known", names[0], shown,
		)
		if n := len(h.own.unreadable); n > 0 {
			return err.WithHint(fmt.Sprintf(
				"known_hosts in the Git secret has %d lines that cannot be read, the first is line %d. Every line "+
					"needs a host, a key type and a key, as ssh-keyscan prints them.", n, h.own.unreadable[0],
			))
		}
		return err
	}
}

// find returns the line with that marker for that key of a host.
func (k knownHosts) find(host, marker string, key ssh.PublicKey) (hostLine, bool) {
	for _, l := range k.of(host, marker) {
		if bytes.Equal(l.key.Marshal(), key.Marshal()) {
			return l, true
		}
	}
	return hostLine{}, false
}

var errNoAuthority = fmt.Errorf("no known authority signed the certificate")

// certified checks a host's certificate.
func (k knownHosts) certified(names []string, hostname string, remote net.Addr, cert *ssh.Certificate) error {
	var signer hostLine
	for _, name := range names {
		for _, key := range []ssh.PublicKey{cert.SignatureKey, cert.Key} {
			if line, ok := k.find(name, revoked, key); ok {
				return outcome.Errorf(
					outcome.HostKeyUnknown, "the host certificate of %s is revoked by line %d of known_hosts", names[0],
					line.number,
				)
			}
		}
		if line, ok := k.find(name, authority, cert.SignatureKey); ok {
			signer = line
		}
	}
	if signer.key == nil {
		return errNoAuthority
	}
	checker := ssh.CertChecker{IsHostAuthority: func(ssh.PublicKey, string) bool { return true }}
	if err := checker.CheckHostKey(hostname, remote, cert); err != nil {
		return outcome.Errorf(outcome.HostKeyUnknown, "the host certificate of %s: %w", names[0], err)
	}
	return nil
}

func fingerprints(keys []ssh.PublicKey) string {
	var text string
	for i, k := range keys {
		if i > 0 {
			text += " or "
		}
		text += k.Type() + " " + ssh.FingerprintSHA256(k)
	}
	return text
}
