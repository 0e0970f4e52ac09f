// Package attacks holds exploits, as tests: what strangers' code, registries, servers and repositories may try against
// the steps and the templates. Each file is one kind of attack; docs/platform/security.md says which line of the threat
// model it tests. What takes a cluster is in ci/e2e.
package attacks
