//go:build unix

package fuzztest

import (
	"syscall"
	"time"
)

// processorTime is the user and system time of this process, which other programs of a busy machine do not add to.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
