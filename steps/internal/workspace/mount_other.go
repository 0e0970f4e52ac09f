//go:build !linux

package workspace

// isMountPoint is of use in pods only.
func isMountPoint(string) bool { return false }
