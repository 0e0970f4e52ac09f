package kind

import (
	"golang.org/x/sys/unix"
)

// lacksResources tells whether nobody on this machine has the capability SYS_RESOURCE, and so no engine.
func lacksResources() bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	return err == nil && has == 0
}
