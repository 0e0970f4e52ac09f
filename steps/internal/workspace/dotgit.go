package workspace

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// gitFolder is the name under which Git has its own folder, or a file that tells where that is.
const gitFolder = ".git"

// dotGit are the names under which a file system may find it, once they are folded as FoldName does.
var dotGit = []string{gitFolder, "git~1"}

// IsGit tells whether some file system may take a name for .git. That is Git's own: it is no part of the repository's
// content, and what it holds may be a secret, such as the token that a CI's checkout leaves in .git/config.
func IsGit(name string) bool { return slices.Contains(dotGit, FoldName(name)) }

// FoldName does to a name what file systems of Windows and macOS do when they compare: case, characters that HFS+
// ignores, NTFS streams, dots and spaces at the end. A backslash divides names on Windows.
func FoldName(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
	name, _, _ = strings.Cut(name, ":")
	name, _, _ = strings.Cut(name, `\`)
	return strings.ToLower(strings.TrimRight(name, " ."))
}

// namesGit tells whether a part of a slash-separated path is Git's own.
func namesGit(path string) bool {
	return slices.ContainsFunc(strings.Split(path, "/"), IsGit)
}

// namesGitFolder tells whether a part of a slash-separated path is .git itself, which no manifest lists.
func namesGitFolder(path string) bool { return slices.Contains(strings.Split(path, "/"), gitFolder) }

// isInGit tells whether a real path below root is Git's own, under whatever name: .git, the folder that a .git file or
// a link leads to, or any other Git directory.
func isInGit(root, real string) bool {
	local, err := filepath.Rel(root, real)
	if err != nil || local == "." {
		return false
	}
	if namesGit(filepath.ToSlash(local)) {
		return true
	}
	for at := real; at != root && len(at) > len(root); at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil {
			git, err := os.Stat(filepath.Join(filepath.Dir(at), gitFolder))
			if err == nil && os.SameFile(info, git) || info.IsDir() && isGitDirectory(at) {
				return true
			}
		}
	}
	return false
}

// isGitDirectory tells whether a folder is what git takes for a Git directory.
func isGitDirectory(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}
