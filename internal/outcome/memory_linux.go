package outcome

import "syscall"

// peakOfChildren is the most memory that one of the processes had which this one has waited for, in KiB.
func peakOfChildren() int64 {
	var children syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children); err != nil {
		return 0
	}
	return children.Maxrss
}
