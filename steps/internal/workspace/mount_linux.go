package workspace

import "golang.org/x/sys/unix"

// isMountPoint tells whether a file system begins at a path, or a folder of one is mounted there. A kernel before 5.8
// does not tell.
func isMountPoint(path string) bool {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &stat)
	return err == nil && stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
