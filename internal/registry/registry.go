// Package registry is how all of Stepwright reaches container registries: over which protocol, by which mirrors, with
// whose certificates and credentials, and what a registry's failure means.
package registry

import (
	"slices"
	"strings"
)

// Mirror is a host, with optional port and path, that has the images of a registry.
type Mirror struct {
	Registry string `json:"registry"`
	Mirror   string `json:"mirror"`
}

// MirrorsOf returns the mirrors of a registry, given by its host, in the order in which they are asked before the
// registry itself: hosts with optional port and path, without a slash at the end.
func MirrorsOf(host string, mirrors []Mirror) []string {
	var found []string
	for _, m := range mirrors {
		if keyName(m.Registry) == Name(host) {
			found = append(found, strings.TrimRight(m.Mirror, "/"))
		}
	}
	return found
}

// IsInsecure tells whether a registry is one of those that are spoken to over plain HTTP. All are given by their hosts,
// with the port if they have one.
func IsInsecure(host string, insecure []string) bool {
	return slices.ContainsFunc(insecure, func(named string) bool { return Name(named) == Name(host) })
}

// DockerHub is how people name Docker's registry. Its servers have other names.
const DockerHub = "docker.io"

// Name returns the one spelling of a registry's host, or of a repository that is given with its host. It leaves out a
// scheme and slashes at the end, writes the host in small letters, and calls Docker Hub DockerHub.
func Name(given string) string {
	given = strings.TrimPrefix(strings.TrimPrefix(given, "https://"), "http://")
	host, path, hasPath := strings.Cut(strings.TrimRight(given, "/"), "/")
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = DockerHub
	}
	if hasPath {
		return host + "/" + path
	}
	return host
}
