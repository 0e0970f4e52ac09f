package filelock

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// lock locks an open file, all of its bytes, if nobody else has. Windows has no locks on folders.
func lock(file *os.File, exclusive bool) (free bool, err error) {
	var how uint32 = windows.LOCKFILE_FAIL_IMMEDIATELY
	if exclusive {
		how |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	err = windows.LockFileEx(
		windows.Handle(file.Fd()), how, 0, math.MaxUint32, math.MaxUint32, new(windows.Overlapped),
	)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}
