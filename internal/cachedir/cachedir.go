// Package cachedir names the folder for what can be made again: images, and programs that are built.
package cachedir

import (
	"fmt"
	"os"
	"path/filepath"
)

// Variable names the environment variable with the folder.
const Variable = "STEPWRIGHT_CACHE"

// Path is a place in the folder: that of the environment, or stepwright in the user's cache folder.
func Path(parts ...string) (string, error) {
	dir := os.Getenv(Variable)
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no folder to keep things in; set %s: %w", Variable, err)
		}
		dir = filepath.Join(cache, "stepwright")
	}
	return filepath.Join(append([]string{dir}, parts...)...), nil
}
