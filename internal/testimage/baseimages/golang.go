package baseimages

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// golangRecipe puts the machine's own Go on top of Debian. No package is installed, so that nothing has to run to make
// it.
var golangRecipe = recipe{
	from: "the machine's Go",
	base: Debian,
	inputs: func(ctx context.Context, packages *archive) (string, error) {
		toolchain, err := machineGo(ctx)
		if err != nil {
			return "", err
		}
		// Two toolchains of one version differ when one was built with other settings; VERSION has the time of the
		// release.
		version, err := os.ReadFile(filepath.Join(toolchain.Root, "VERSION"))
		if err != nil {
			return "", err
		}
		lines, err := packages.versions(ctx, "ca-certificates")
		return toolchain.Version + "\n" + string(version) + lines, err
	},
	content: golangContent,
	config: func(ctx context.Context) (v1.Config, error) {
		toolchain, err := machineGo(ctx)
		return v1.Config{
			Env: []string{
				"PATH=/go/bin:/usr/local/go/bin:" + defaultPath,
				"GOLANG_VERSION=" + strings.TrimPrefix(toolchain.Version, "go"),
				"GOTOOLCHAIN=local",
				"GOPATH=/go",
			},
			Cmd:        []string{"bash"},
			WorkingDir: "/go",
		}, err
	},
}

// A toolchain is an installed Go.
type toolchain struct {
	Root     string `json:"GOROOT"`
	Version  string `json:"GOVERSION"`
	Platform string `json:"GOHOSTARCH"`
}

func machineGo(ctx context.Context) (toolchain, error) {
	out, err := run(ctx, "", "go", "env", "-json", "GOROOT", "GOVERSION", "GOHOSTARCH")
	if err != nil {
		return toolchain{}, err
	}
	var t toolchain
	if err := json.Unmarshal(out, &t); err != nil {
		return toolchain{}, fmt.Errorf("read what go env printed: %w", err)
	}
	// A distribution's Go may consist of links into other folders.
	if t.Root, err = filepath.EvalSymlinks(t.Root); err != nil {
		return toolchain{}, err
	}
	return t, nil
}

func golangContent(ctx context.Context, packages *archive, scratch string, w *layerWriter) error {
	toolchain, err := machineGo(ctx)
	if err != nil {
		return err
	}
	downloaded, err := packages.download(ctx, scratch, "ca-certificates")
	if err != nil {
		return err
	}
	bundle, err := certificateBundle(ctx, downloaded[0])
	if err != nil {
		return err
	}
	image := files{}
	image.text(certificates, 0o644, bundle)
	image.folder("go/bin", 0o1777)
	image.folder("go/src", 0o1777)
	image.folder("go", 0o1777)
	for _, part := range []string{
		"VERSION", "LICENSE", "go.env", "bin/go", "bin/gofmt", "lib", "src", "pkg/include",
		"pkg/tool/linux_" + toolchain.Platform,
	} {
		if err := addGo(image, toolchain.Root, part); err != nil {
			return fmt.Errorf("copy Go from %s: %w", toolchain.Root, err)
		}
	}
	return w.addAll(image)
}

// addGo adds a file of the Go installation, or a folder with all it takes to build programs.
func addGo(image files, goroot, part string) error {
	root, err := filepath.EvalSymlinks(filepath.Join(goroot, part))
	if err != nil {
		return err
	}
	return filepath.WalkDir(root, func(source string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && entry.Name() == "testdata" {
			return fs.SkipDir
		}
		info, err := os.Stat(source) // the file itself, where a link leads to it
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || strings.HasSuffix(source, "_test.go") {
			return nil
		}
		below, err := filepath.Rel(root, source)
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o111 != 0 {
			mode = 0o755
		}
		image.copy(path.Join("usr/local/go", part, filepath.ToSlash(below)), source, mode, info.Size())
		return nil
	})
}
