package baseimages

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// debianRecipe installs what the real image has: the essential packages, those of priority "required", and apt.
var debianRecipe = debianWith(nil)

// debianWith installs more packages than the real image has.
func debianWith(more []string) recipe {
	return recipe{
		from: "Debian packages",
		inputs: func(ctx context.Context, packages *archive) (string, error) {
			sources, err := os.ReadFile(packages.sources()) // they are in the image, too
			if err != nil {
				return "", err
			}
			lines, err := packages.closure(ctx, slices.Concat(debianPackages, more)...)
			return string(sources) + lines, err
		},
		content: func(ctx context.Context, packages *archive, scratch string, w *layerWriter) error {
			return debianContent(ctx, packages, more, scratch, w)
		},
		config: func(context.Context) (v1.Config, error) {
			return v1.Config{Env: []string{"PATH=" + defaultPath}, Cmd: []string{"bash"}}, nil
		},
	}
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// usr-is-merged stands in for usrmerge, which would bring all of Perl.
var debianPackages = []string{"?essential", "apt", "e2fsprogs", "mount", "tzdata", "usr-is-merged"}

// debianContent lets mmdebstrap install the packages: it works in a user namespace where it is not root, and makes the
// same bytes each time. It gets the lists that the inputs were resolved with, so that the image has the content that
// its key promises.
func debianContent(ctx context.Context, packages *archive, more []string, scratch string, w *layerWriter) error {
	tree := filepath.Join(scratch, "debian.tar")
	args := []string{
		"--quiet", "--format=tar", "--variant=custom",
		"--skip=update", "--setup-hook=copy-in " + quote(packages.lists()) + " /var/lib/apt",
		"--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
	}
	for _, name := range debianPackages {
		args = append(args, "--include="+name)
	}
	if len(more) > 0 {
		// Once the system is whole: mmdebstrap configures those above in one go, which most packages' scripts are not
		// made for. Those of Java want the folder of the manuals that are left out.
		args = append(
			args, `--customize-hook=mkdir --parents "$1/usr/share/man/man1"`,
			`--customize-hook=APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get --yes --quiet=2 install `+
				`--option=DPkg::Chroot-Directory="$1" `+strings.Join(more, " "),
		)
	}
	cmd := command(ctx, "mmdebstrap", append(args, suite, tree, packages.sources())...)
	if os.Geteuid() == 0 {
		// Root's mmdebstrap mounts parts of the machine into the new system. In a mount namespace of its own they go
		// away with it, however it ends, so that nobody who removes what it left removes the machine's files.
		unshareMounts(cmd)
		cmd.Env = append(cmd.Env, "TMPDIR="+scratch)
	}
	if _, err := output(ctx, cmd); err != nil {
		return err
	}
	file, err := os.Open(tree)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := copyTree(w, file); err != nil {
		return fmt.Errorf("pack what mmdebstrap made: %w", err)
	}
	for _, extra := range []struct {
		name, content string
		mode          int64
	}{
		// A package that a build installs leaves no archive and no translations behind, and does not start its service.
		{"etc/apt/apt.conf.d/container", "APT::Keep-Downloaded-Packages \"false\";\nAcquire::Languages \"none\";\n",
			0o644},
		{"usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755},
	} {
		if err := textFile(extra.content, extra.mode).write(extra.name, w); err != nil {
			return err
		}
	}
	return nil
}

// ofMachine are what mmdebstrap takes from the machine, devices that only root could unpack, and apt's working files,
// whose owner depends on who runs it; apt makes them anew.
var ofMachine = []string{"dev/", "etc/hostname", "etc/resolv.conf", "var/cache/apt/archives/", "var/lib/apt/lists/"}

// copyTree writes the files of a whole system, without those of the machine it was made on.
func copyTree(w *layerWriter, from io.Reader) error {
	for tree := tar.NewReader(from); ; {
		header, err := tree.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := relative(header.Name)
		if name == "" || slices.ContainsFunc(ofMachine, func(prefix string) bool {
			return strings.HasPrefix(name, prefix)
		}) {
			continue
		}
		header.Name = name
		switch header.Typeflag {
		case tar.TypeDir:
			header.Name += "/"
		case tar.TypeLink:
			header.Linkname = relative(header.Linkname)
		}
		if err := w.add(header, tree); err != nil {
			return err
		}
	}
}

// quote makes one word of a path for mmdebstrap's hooks, which are split as a shell does.
func quote(path string) string {
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
