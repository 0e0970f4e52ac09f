package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/ci/release/sbom"
	"github.com/stepwright/stepwright/images/layouts"
)

// addImages adds the references of the images, and lists of what they are made of, for each platform. It puts the lists
// beside the images, too, and which commit they are of.
func (r *release) addImages(files map[string][]byte, revision string) error {
	var text strings.Builder
	for _, image := range imageNames() {
		dir := filepath.Join(r.out, imagesDir, image)
		index, tag, err := layouts.Index(dir)
		if err != nil {
			return err
		}
		platforms, err := layouts.Images(index)
		if err != nil {
			return err
		}
		var has []string
		statements := map[v1.Hash][]layouts.Statement{}
		for _, platform := range platforms {
			img, err := index.Image(platform.Digest)
			if err != nil {
				return err
			}
			architecture := platform.Platform.Architecture
			has = append(has, architecture)
			name := image + "-image_linux_" + architecture
			list, err := r.listImage(img, name, architecture, platform.Digest.Hex)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			files[name+".spdx.json"] = list
			if statements[platform.Digest], err = r.attestations(platform.Digest, list, revision); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if len(has) < len(r.architectures) {
			return fmt.Errorf(
				"the image of %s is for %s only, not for %s: see what make images said", image, strings.Join(has, ", "),
				strings.Join(r.architectures, ", "),
			)
		}
		digest, err := layouts.Attest(dir, statements)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s/%s:%s@%s\n", home, image, tag, digest)
	}
	files[references] = []byte(text.String())
	return nil
}

// attestations are what is said of an image of one platform: of which commit it is, and what it is made of.
func (r *release) attestations(image v1.Hash, list []byte, revision string) ([]layouts.Statement, error) {
	var all []layouts.Statement
	for _, said := range []struct {
		predicate string
		content   any
	}{
		{slsaProvenance, r.definition(revision)}, {spdxDocument, json.RawMessage(list)},
	} {
		content, err := json.Marshal(statement{
			Type: inToto, PredicateType: said.predicate, Predicate: said.content,
			Subject: []subject{{"_", map[string]string{image.Algorithm: image.Hex}}},
		})
		if err != nil {
			return nil, err
		}
		all = append(all, layouts.Statement{Predicate: said.predicate, Content: content})
	}
	return all, nil
}

// Files of Debian packages in images, as the command images puts them there.
const (
	authorities     = "etc/ssl/certs/ca-certificates.crt"
	authoritiesFrom = "ca-certificates"
)

func (r *release) listImage(img v1.Image, name, architecture, digest string) ([]byte, error) {
	var found []sbom.Program
	var packages []sbom.Package
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			return nil, err
		}
		archive := tar.NewReader(content)
		for {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			switch {
			case header.Name == authorities:
				p, err := debian(authoritiesFrom)
				if err != nil {
					return nil, err
				}
				packages = append(packages, p)
			case path.Dir(header.Name) == "usr/local/bin" && header.Typeflag == tar.TypeReg:
				raw, err := io.ReadAll(archive)
				if err != nil {
					return nil, err
				}
				found = append(found, sbom.Program{Name: path.Base(header.Name), Content: raw})
			}
		}
		if err := content.Close(); err != nil {
			return nil, err
		}
	}
	for _, program := range found {
		if program.Name != "runc" {
			continue
		}
		for _, linked := range linkedIntoRunc(architecture) {
			p, err := debian(linked)
			if err != nil {
				return nil, err
			}
			packages = append(packages, p)
		}
	}
	return sbom.OfImage(sbom.Subject{Name: name, Version: r.version, Digest: digest, Time: r.commit}, found, packages)
}

// linkedIntoRunc are the Debian packages whose libraries are in runc, which is linked statically. A machine may have
// them for several architectures.
func linkedIntoRunc(architecture string) []string {
	if architecture == runtime.GOARCH {
		return []string{"libseccomp-dev:" + architecture, "libc6-dev:" + architecture}
	}
	return []string{"libseccomp-dev:" + architecture, "libc6-dev-" + architecture + "-cross"}
}

// debian asks for the version of a package that is installed on this machine, where the images were made.
func debian(name string) (sbom.Package, error) {
	const format = "${Package} ${Version} ${Architecture}"
	out, err := exec.Command("dpkg-query", "--show", "--showformat", format, name).Output()
	if err != nil {
		return sbom.Package{}, fmt.Errorf("dpkg-query %s: %w", name, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) != 3 {
		return sbom.Package{}, fmt.Errorf("dpkg-query %s: %q", name, out)
	}
	return sbom.Package{Name: fields[0], Version: fields[1], Architecture: fields[2]}, nil
}
