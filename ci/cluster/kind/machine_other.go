//go:build !linux

package kind

// lacksResources tells whether nobody on this machine has the capability SYS_RESOURCE: the engine is on another one.
func lacksResources() bool { return false }
