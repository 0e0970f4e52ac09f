package regularfile

import (
	"os"

	"golang.org/x/sys/windows"
)

// open opens a file for reading (os.O_RDONLY) or writing (os.O_WRONLY), or a link itself. Folders of Windows have no
// pipes.
func open(path string, mode int) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var access uint32 = windows.GENERIC_READ
	if mode == os.O_WRONLY {
		access = windows.GENERIC_WRITE
	}
	handle, err := windows.CreateFile(
		name, access, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil,
		windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0,
	)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(handle), path), nil
}
