package gitsource

import (
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/stepwright/stepwright/internal/outcome"
)

// wellKnown are the keys of github.com, gitlab.com, bitbucket.org and Azure DevOps, checked against the fingerprints
// they publish.
//
//go:embed known_hosts
var wellKnown []byte

// hostKeys says which key a server must have: by the secret's known_hosts when that names the server, else by the
// built-in one.
type hostKeys struct {
	files []ssh.HostKeyCallback
}

func newHostKeys(own string) (*hostKeys, error) {
	h := &hostKeys{}
	if own != "" {
		check, err := knownhosts.New(own)
		if err != nil {
			return nil, outcome.Errorf(outcome.HostKeyUnknown, "known_hosts in the Git secret: %w", err).
				WithHint("Every line needs a host, a key type and a key, as ssh-keyscan prints them.")
		}
		h.files = append(h.files, check)
	}
	f, err := os.CreateTemp("", "known_hosts-") // knownhosts reads files only
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(wellKnown)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	check, err := knownhosts.New(f.Name())
	if err != nil {
		return nil, err
	}
	h.files = append(h.files, check)
	return h, nil
}

// known returns the keys that the server at address may have, and whoever checks them. It returns none for an unknown
// server.
func (h *hostKeys) known(address string) ([]knownhosts.KnownKey, ssh.HostKeyCallback) {
	for _, check := range h.files {
		var mismatch *knownhosts.KeyError
		// No server has this key, so the answer names those that are known.
		if errors.As(check(address, noAddr{address}, noKey{}), &mismatch) && len(mismatch.Want) > 0 {
			return mismatch.Want, check
		}
	}
	return nil, h.files[0] // an unknown server may still show a certificate of an authority that the secret trusts
}

// algorithms are those a server must be asked for so that it shows a key that is known, and not another one it also
// has. Nil asks for any.
func algorithms(keys []knownhosts.KnownKey) []string {
	var out []string
	for _, k := range keys {
		algos := []string{k.Key.Type()}
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algos = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, a := range algos {
			if !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// require makes config accept only a key of the server at address that is known.
func (h *hostKeys) require(config *ssh.ClientConfig, address string) {
	keys, check := h.known(address)
	config.HostKeyAlgorithms = algorithms(keys)
	config.HostKeyCallback = func(hostname string, remote net.Addr, key ssh.PublicKey) error {
		err := check(hostname, remote, key)
		if err == nil {
			return nil
		}
		shown := fmt.Sprintf("%s %s", key.Type(), ssh.FingerprintSHA256(key))
		host := knownhosts.Normalize(address)
		if revoked, ok := errors.AsType[*knownhosts.RevokedError](err); ok {
			return outcome.Errorf(
				outcome.HostKeyUnknown, "the host key of %s, %s, is revoked by line %d of known_hosts", host, shown,
				revoked.Revoked.Line,
			)
		}
		if len(keys) > 0 {
			return outcome.Errorf(
				outcome.HostKeyUnknown, "%s shows the host key %s, which is not the one that is known, %s", host,
				shown, fingerprints(keys),
			).
				WithHint("Someone may be between this cluster and the server. If the server's key did change, put " +
					"the new one into known_hosts of the Git secret.")
		}
		return outcome.Errorf(
			outcome.HostKeyUnknown, "%s shows the host key %s, and no key of that host is known", host, shown,
		)
	}
}

func fingerprints(keys []knownhosts.KnownKey) string {
	var text string
	for i, k := range keys {
		if i > 0 {
			text += " or "
		}
		text += k.Key.Type() + " " + ssh.FingerprintSHA256(k.Key)
	}
	return text
}

// noKey is a key that no server has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// noAddr is the address of a server that is not connected to.
type noAddr struct{ address string }

func (noAddr) Network() string  { return "tcp" }
func (a noAddr) String() string { return a.address }
