package buildpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// findApp returns the real path of the application's folder.
func findApp(in Parameters) (string, error) {
	source := in.Workspace.Source()
	if _, err := os.Stat(source); err != nil {
		return "", outcome.Errorf(outcome.InvalidParameters, "there is no source to build: %w", err).WithHint(
			"The checkout step must run first.",
		)
	}
	app, err := in.Workspace.Resolve(in.AppPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", outcome.Errorf(
			outcome.InvalidParameters, "app-path: %q is not in the repository; at its top there are %s", in.AppPath,
			folders(source),
		)
	case err != nil:
		return "", fmt.Errorf("app-path: %w", err)
	}
	if info, err := os.Stat(app); err != nil {
		return "", err
	} else if !info.IsDir() {
		return "", outcome.Errorf(outcome.InvalidParameters, "app-path: %q is not a directory", in.AppPath)
	}
	return app, nil
}

// folders names some folders in a folder.
func folders(dir string) string {
	const most = 12
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if e.IsDir() && e.Name() != ".git" && len(names) < most {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		return "no folders"
	}
	return strings.Join(names, ", ")
}

// copyApp copies the application's files to where buildpacks find them: they may write there, and the rest of
// it goes into the image. All files get one time and a mode of Git's, so that two builds see the same: volumes change
// the modes of what is in them, as a pod's fsGroup lets groups write.
func copyApp(ctx context.Context, from, to string, belongs func(path string) bool, at time.Time) error {
	var made []string // folders, each after the one it is in
	isMade := map[string]bool{".": true}
	var mkdir func(path string) error
	mkdir = func(path string) error {
		if isMade[path] {
			return nil
		}
		if err := mkdir(filepath.Dir(path)); err != nil {
			return err
		}
		isMade[path], made = true, append(made, path)
		folder := filepath.Join(to, path)
		return errors.Join(os.Mkdir(folder, 0o755), os.Chmod(folder, 0o755))
	}
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == from {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		local, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.Name() == ".git" {
			// It differs between two clones of one commit, a submodule's, too.
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !belongs(local) {
			return nil // what a folder holds may belong nevertheless
		}
		if entry.IsDir() {
			return mkdir(local)
		}
		if err := mkdir(filepath.Dir(local)); err != nil {
			return err
		}
		return copyFile(path, filepath.Join(to, local), entry, at)
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(made) {
		if err := os.Chtimes(filepath.Join(to, path), at, at); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, entry fs.DirEntry, at time.Time) (err error) {
	if entry.Type() == fs.ModeSymlink {
		link, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(link, to)
	}
	if !entry.Type().IsRegular() {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	mode := workspace.Mode(info.Mode())
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = out.Chmod(mode)
	}
	return errors.Join(err, out.Close(), os.Chtimes(to, at, at))
}

// nameLimit is how long a variable's name may be, in bytes: it becomes the name of a file.
const nameLimit = 255

// nameFault returns the fault of a variable's name.
func nameFault(name string) string {
	switch {
	case name == "":
		return "has no name"
	case name == "." || name == ".." || strings.ContainsAny(name, "/=\x00"):
		return "does not have the name of a variable"
	case len(name) > nameLimit:
		return fmt.Sprintf("has a name of more than %d bytes", nameLimit)
	}
	return ""
}

// writeVariables writes variables for buildpacks: each a file whose content is the value, to the last byte (CNB
// platform specification).
func writeVariables(variables map[string]string) error {
	dir := filepath.Join(platformDir, "env")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(variables[name]), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// systemBundle is where most distributions have the certificate authorities of the web.
const systemBundle = "/etc/ssl/certs/ca-certificates.crt"

// trustAuthorities lets buildpacks and the tools that they run trust the CA bundle: as a binding of the type that
// buildpacks know, and by the variables that tools know. The variables that are set already stay.
func trustAuthorities(bundle string, variables map[string]string) error {
	if bundle == "" {
		return nil
	}
	own, err := os.ReadFile(bundle)
	if err != nil {
		return outcome.Errorf(outcome.InvalidParameters, "ca-bundle: %w", err)
	}
	if err := writeBinding(caBinding, map[string][]byte{
		"type":   []byte("ca-certificates"),
		"ca.crt": own,
	}); err != nil {
		return err
	}
	all, err := os.ReadFile(systemBundle)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(platformDir, "ca-bundle.crt")
	if err := os.WriteFile(path, append(append(all, '\n'), own...), 0o644); err != nil {
		return err
	}
	for _, name := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"} {
		if _, set := variables[name]; !set {
			variables[name] = path
		}
	}
	return nil
}
