package gitsource

import (
	"fmt"
	"net"
	"net/url"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A host that does not exist is a mistake in the URL, and not tried again; a name server that does not answer is.
func TestHostThatDoesNotExist(t *testing.T) {
	remote, err := ParseRemote("https://git.example.com/acme/cart.git")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		dns  net.DNSError
		want outcome.Reason
	}{
		"no such host": {
			net.DNSError{Err: "no such host", Name: "git.example.com", IsNotFound: true},
			outcome.RepositoryNotFound,
		},
		"name server is silent": {
			net.DNSError{Err: "i/o timeout", Name: "git.example.com", IsTimeout: true},
			outcome.GitServerUnavailable,
		},
		"name server has failed": {net.DNSError{Err: "server misbehaving", Name: "git.example.com", IsTemporary: true},
			outcome.GitServerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			got := unavailable(remote, &url.Error{
				Op:  "Get",
				URL: remote.String(),
				Err: fmt.Errorf("dial: %w", &test.dns),
			})
			if reason := outcome.Of(got).Reason; reason != test.want {
				t.Errorf("%s, want %s", reason, test.want)
			}
		})
	}
}
