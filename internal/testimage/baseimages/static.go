package baseimages

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// staticRecipe has what a static binary needs, as the real image, and no shell.
var staticRecipe = recipe{
	from: "files of Debian packages",
	inputs: func(ctx context.Context, packages *archive) (string, error) {
		return packages.versions(ctx, staticPackages...)
	},
	content: staticContent,
	config: func(context.Context) (v1.Config, error) {
		return v1.Config{
			Env:        []string{"PATH=" + defaultPath, "SSL_CERT_FILE=/" + certificates},
			User:       "65532",
			WorkingDir: "/home/nonroot",
		}, nil
	},
}

var staticPackages = []string{"base-files", "ca-certificates", "media-types", "netbase", "tzdata"}

// certificates is where OpenSSL, GnuTLS and Go look for the certificate authorities on Debian.
const certificates = "etc/ssl/certs/ca-certificates.crt"

func staticContent(ctx context.Context, packages *archive, scratch string, w *layerWriter) error {
	downloaded, err := packages.download(ctx, scratch, staticPackages...)
	if err != nil {
		return err
	}
	image := files{}
	for _, pkg := range downloaded {
		control, err := pkg.control(ctx)
		if err != nil {
			return err
		}
		// where scanners look for the packages of such an image
		image.text("var/lib/dpkg/status.d/"+pkg.name, 0o644, control)
		if pkg.name == "ca-certificates" {
			bundle, err := certificateBundle(ctx, pkg)
			if err != nil {
				return err
			}
			image.text(certificates, 0o644, bundle)
			continue
		}
		if err := pkg.read(ctx, func(name string, header *tar.Header, data []byte) error {
			if !documentation(name) {
				image[name] = file{header: *header, data: data}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	image.folder("dev", 0o755)
	image.folder("tmp", 0o1777)
	image.folder("root", 0o700)
	image.folder("home/nonroot", 0o700)
	home := image["home/nonroot"]
	home.header.Uid, home.header.Gid = 65532, 65532
	image["home/nonroot"] = home
	image.text("etc/nsswitch.conf", 0o644, "hosts: files dns\n")
	image.text("etc/passwd", 0o644, ""+
		"root:x:0:0:root:/root:/sbin/nologin\n"+
		"nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"+
		"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
	image.text("etc/group", 0o644, "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n")
	return w.addAll(image)
}

// documentation tells whether a file is only for people to read, licences excepted.
func documentation(name string) bool {
	if strings.HasPrefix(name, "usr/share/doc/") {
		return path.Base(name) != "copyright"
	}
	return strings.HasPrefix(name, "usr/share/man/") || strings.HasPrefix(name, "usr/share/lintian/")
}

// certificateBundle joins the certificate authorities of the package, as update-ca-certificates does when it is
// installed.
func certificateBundle(ctx context.Context, caCertificates debianPackage) (string, error) {
	var bundle strings.Builder
	err := caCertificates.read(ctx, func(name string, _ *tar.Header, data []byte) error {
		if strings.HasPrefix(name, "usr/share/ca-certificates/") && strings.HasSuffix(name, ".crt") {
			bundle.Write(bytes.TrimSpace(data))
			bundle.WriteByte('\n')
		}
		return nil
	})
	if err == nil && bundle.Len() == 0 {
		err = errors.New("package ca-certificates has no certificates")
	}
	return bundle.String(), err
}
