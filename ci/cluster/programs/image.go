package programs

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// An image is one layer of a few files: /tmp, and what its program needs.
type image struct {
	ref        string
	entrypoint string
	user       string
	files      map[string]string // in the image, without the leading slash: on this machine
}

// write writes the image as <the last part of its name>.tar, which ctr imports.
func (i image) write(dir string) error {
	archive := filepath.Join(dir, ".layer")
	if err := i.writeLayer(archive); err != nil {
		return err
	}
	defer os.Remove(archive)
	layer, err := tarball.LayerFromFile(archive, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		User: i.user, Entrypoint: []string{i.entrypoint},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	tag, err := name.NewTag(i.ref)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(filepath.Join(dir, path.Base(tag.RepositoryStr())+".tar"), tag, img)
}

func (i image) writeLayer(archive string) error {
	file, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	folders := map[string]int64{"tmp/": 0o1777}
	for name := range i.files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			folders[dir+"/"] = 0o755
		}
	}
	for _, name := range slices.Sorted(maps.Keys(folders)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: folders[name]}); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.files)) {
		content, err := os.Open(i.files[name])
		if err != nil {
			return err
		}
		defer content.Close()
		info, err := content.Stat()
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{
			Name: name,
			Size: info.Size(),
			Mode: int64(info.Mode().Perm()),
		}); err != nil {
			return err
		}
		if _, err := io.Copy(w, content); err != nil {
			return fmt.Errorf("pack %s: %w", i.files[name], err)
		}
	}
	return w.Close()
}
