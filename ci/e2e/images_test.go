//go:build e2e

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// registryConfig is the configuration in the real image, as far as it counts here.
const registryConfig = `version: 0.1
storage:
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
`

// scannerImage is the image of the check that TestComponents/scan-gate runs.
const scannerImage = "stepwright/scanner:e2e"

// loadComponentImages makes equivalents of the images that components use, from the programs in bin/, and puts them
// where the node pulls from.
func loadComponentImages(ctx context.Context, store baseimages.Store) error {
	busybox, err := store.Image(baseimages.Busybox)
	if err != nil {
		return err
	}
	rootless, err := store.Image(baseimages.Rootless)
	if err != nil {
		return err
	}
	bin := func(name string) string { return filepath.Join(*repository, "bin", name) }
	for _, i := range []struct {
		reference string
		base      v1.Image
		programs  map[string]string // in the image: on this machine
		texts     map[string]string
		config    v1.Config
	}{
		{"library/busybox:1.37.0", busybox, nil, nil, v1.Config{}},
		{"pause:3.10", empty.Image, map[string]string{"pause": bin("pause")}, nil,
			v1.Config{Entrypoint: []string{"/pause"}}},
		{scannerImage, empty.Image, map[string]string{"scanner": bin("scanner")}, nil, v1.Config{}},
		{"library/registry:3.0.0", empty.Image, map[string]string{"bin/registry": bin("registry")},
			map[string]string{"etc/distribution/config.yml": registryConfig},
			v1.Config{Entrypoint: []string{"/bin/registry"}, Cmd: []string{"serve", "/etc/distribution/config.yml"}}},
		// Debian's newuidmap is setuid root, and wants more capabilities for it than a pod has: here it has file
		// capabilities instead.
		{"moby/buildkit:v0.33.1-rootless", rootless,
			map[string]string{"usr/bin/buildkitd": bin("buildkitd"), "usr/bin/buildctl": bin("buildctl"),
				"usr/bin/newuidmap": "/usr/bin/newuidmap", "usr/bin/newgidmap": "/usr/bin/newgidmap"},
			map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
				"etc/subuid": "user:100000:65536\n", "etc/subgid": "user:100000:65536\n"},
			v1.Config{User: "1000:1000", Entrypoint: []string{"rootlesskit", "buildkitd"}, Env: []string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home/user", "USER=user",
				"XDG_RUNTIME_DIR=/run/user/1000", "TMPDIR=/home/user/.local/tmp",
				"BUILDKIT_HOST=unix:///run/user/1000/buildkit/buildkitd.sock",
			}}},
	} {
		image := i.base
		if len(i.programs) > 0 {
			if image, err = extend(image, i.programs, i.texts, i.config); err != nil {
				return fmt.Errorf("%s: %w", i.reference, err)
			}
		}
		if i.reference == scannerImage {
			digest, err := image.Digest()
			if err != nil {
				return err
			}
			scannerDigest = digest.String()
		}
		tag, err := name.NewTag("127.0.0.1:5000/"+i.reference, name.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(tag, image, remote.WithContext(ctx)); err != nil {
			return fmt.Errorf("%s: %w", i.reference, err)
		}
	}
	return nil
}

// capabilities are PAX records of the extended attribute security.capability: CAP_SETUID, or CAP_SETGID, permitted and
// in effect.
var capabilities = map[string]map[string]string{
	"usr/bin/newuidmap": {
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x80\x00\x00\x00" +
			"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	},
	"usr/bin/newgidmap": {
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x40\x00\x00\x00" +
			"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	},
}

// extend puts files on top of an image, and folders that user 1000 may write to.
func extend(base v1.Image, programs, texts map[string]string, config v1.Config) (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{
		"tmp", "home/user", "home/user/.local", "home/user/.local/tmp", "home/user/.local/share",
		"home/user/.local/share/buildkit",
		"run/user/1000",
	} {
		if err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir,
			Name:     dir + "/",
			Mode:     0o777,
			Uid:      1000,
			Gid:      1000,
		}); err != nil {
			return nil, err
		}
	}
	write := func(name string, mode int64, content []byte) error {
		err := w.WriteHeader(&tar.Header{
			Typeflag:   tar.TypeReg,
			Name:       name,
			Mode:       mode,
			Size:       int64(len(content)),
			PAXRecords: capabilities[name],
		})
		if err == nil {
			_, err = w.Write(content)
		}
		return err
	}
	for name, file := range programs {
		content, err := os.ReadFile(file)
		if err == nil {
			err = write(name, 0o755, content)
		}
		if err != nil {
			return nil, err
		}
	}
	for name, text := range texts {
		if err := write(name, 0o644, []byte(text)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(base, added)
	if err != nil {
		return nil, err
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, file)
}
