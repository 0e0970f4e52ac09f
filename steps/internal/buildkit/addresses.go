package buildkit

import (
	"regexp"
	"slices"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Daemons are the daemons at some addresses.
type Daemons struct {
	Addresses string // as in Pool
	Platform  string // of what they build; empty: whatever no others are for
}

// separator is a comma before an address: a socket's path may have others. An address may have a platform.
var (
	separator = regexp.MustCompile(`\s*,\s*((?:` + platform + `=)?(?:unix|tcp)://)`)
	prefix    = regexp.MustCompile(`^(` + platform + `)=`)
)

// platform is a regular expression of os/architecture, and maybe a variant.
const platform = `[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?`

// split returns the addresses of a list.
func split(addresses string) []string {
	var all []string
	for {
		at := separator.FindStringSubmatchIndex(addresses)
		if at == nil {
			return append(all, addresses)
		}
		all, addresses = append(all, addresses[:at[0]]), addresses[at[2]:]
	}
}

// DaemonsAt reads a list of addresses, each of which may be for a platform: linux/arm64=tcp://host:1234. Those of one
// platform are together, in the place of the first of them.
func DaemonsAt(addresses string) ([]Daemons, error) {
	var all []Daemons
	for _, address := range split(addresses) {
		name := ""
		if at := prefix.FindStringSubmatch(address); at != nil {
			parsed, err := platforms.Parse(at[1])
			if err != nil {
				return nil, outcome.Errorf(outcome.InvalidParameters, "buildkit-address: %w", err)
			}
			name, address = platforms.FormatAll(platforms.Normalize(parsed)), address[len(at[0]):]
		}
		i := slices.IndexFunc(all, func(d Daemons) bool { return d.Platform == name })
		if i < 0 {
			all = append(all, Daemons{address, name})
		} else {
			all[i].Addresses += "," + address
		}
	}
	return all, nil
}

// DaemonsFor returns the daemons that build for a platform: its own, or those that are for no certain one.
func DaemonsFor(all []Daemons, target ocispec.Platform) (d Daemons, ok bool) {
	name := platforms.FormatAll(platforms.Normalize(target))
	for _, wanted := range []string{name, ""} {
		if i := slices.IndexFunc(all, func(d Daemons) bool { return d.Platform == wanted }); i >= 0 {
			return all[i], true
		}
	}
	return Daemons{}, false
}
