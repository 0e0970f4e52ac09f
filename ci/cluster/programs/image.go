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
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// An image is one layer of a few files: /tmp, and what its program needs.
type image struct {
	ref        string
	more       []string // other names of it
	base       v1.Image // that the layer is put on; nil: none
	entrypoint string   // empty: none
	user       string
	config     v1.Config         // what else its containers get
	files      map[string]string // in the image, without the leading slash: on this machine
	texts      map[string]string // likewise: their content. A name that ends with a slash is a folder
	links      map[string]string // likewise: where symbolic links lead
	executable func(name string) bool
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
	base := i.base
	if base == nil {
		base = empty.Image
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = i.config
	config.Config.User = i.user
	config.Config.Env = append(config.Config.Env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	if i.entrypoint != "" {
		config.Config.Entrypoint = []string{i.entrypoint}
	}
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return err
	}
	images := map[name.Tag]v1.Image{}
	for _, ref := range append([]string{i.ref}, i.more...) {
		tag, err := name.NewTag(ref)
		if err != nil {
			return err
		}
		images[tag] = img
	}
	repository, _, _ := strings.Cut(path.Base(i.ref), ":")
	return tarball.MultiWriteToFile(filepath.Join(dir, repository+".tar"), images)
}

func (i image) writeLayer(archive string) error {
	file, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	w := tar.NewWriter(file)
	folders := map[string]int64{"tmp/": 0o1777}
	for _, names := range []map[string]string{i.files, i.texts, i.links} {
		for name := range names {
			for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
				folders[dir+"/"] = 0o755
			}
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
	for _, name := range slices.Sorted(maps.Keys(i.texts)) {
		mode := int64(0o644)
		if i.executable != nil && i.executable(name) {
			mode = 0o755
		}
		if strings.HasSuffix(name, "/") {
			continue
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(i.texts[name])), Mode: mode}); err != nil {
			return err
		}
		if _, err := io.WriteString(w, i.texts[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.links)) {
		if err := w.WriteHeader(&tar.Header{
			Typeflag: tar.TypeSymlink, Name: name, Linkname: i.links[name], Mode: 0o777,
		}); err != nil {
			return err
		}
	}
	return w.Close()
}
