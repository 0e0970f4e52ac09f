package baseimages

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// busyboxRecipe has, as the real image, one static binary under the name of each of its applets.
var busyboxRecipe = recipe{
	from: "Debian's busybox-static",
	inputs: func(ctx context.Context, packages *archive) (string, error) {
		return packages.versions(ctx, "busybox-static")
	},
	content: busyboxContent,
	config: func(context.Context) (v1.Config, error) {
		return v1.Config{Env: []string{"PATH=" + defaultPath}, Cmd: []string{"sh"}}, nil
	},
}

func busyboxContent(ctx context.Context, packages *archive, scratch string, w *layerWriter) error {
	downloaded, err := packages.download(ctx, scratch, "busybox-static")
	if err != nil {
		return err
	}
	// dpkg-deb writes the binary: one that this process had open for writing might still be, in a child, and could not
	// be started.
	if _, err := run(ctx, "", "dpkg-deb", "--extract", downloaded[0].file, scratch); err != nil {
		return err
	}
	binary := filepath.Join(scratch, "bin", "busybox")
	applets, err := run(ctx, "", binary, "--list")
	if err != nil {
		return fmt.Errorf("ask busybox for its applets: %w", err)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	image := files{}
	// The file of a hard link must come before it, and `[` sorts first.
	image.text("bin/[", 0o755, string(data))
	image.hardlink("bin/busybox", "bin/[")
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "[" && applet != "busybox" {
			image.hardlink("bin/"+applet, "bin/[")
		}
	}
	image.symlink("usr/bin/env", "../../bin/env")
	image.folder("dev", 0o755)
	image.folder("home", 0o755)
	image.folder("root", 0o700)
	image.folder("tmp", 0o1777)
	image.folder("usr/sbin", 0o755)
	image.folder("var/spool/mail", 0o755)
	image.folder("var/www", 0o755)
	image.text("etc/passwd", 0o644, ""+
		"root:x:0:0:root:/root:/bin/sh\n"+
		"daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"+
		"bin:x:2:2:bin:/bin:/bin/false\n"+
		"sys:x:3:3:sys:/dev:/bin/false\n"+
		"sync:x:4:100:sync:/bin:/bin/sync\n"+
		"mail:x:8:8:mail:/var/spool/mail:/bin/false\n"+
		"www-data:x:33:33:www-data:/var/www:/bin/false\n"+
		"operator:x:37:37:Operator:/var:/bin/false\n"+
		"nobody:x:65534:65534:nobody:/home:/bin/false\n")
	image.text("etc/group", 0o644, ""+
		"root:x:0:\ndaemon:x:1:\nbin:x:2:\nsys:x:3:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\nwheel:x:10:root\nmail:x:8:\n"+
		"utmp:x:43:\nwww-data:x:33:\naudio:x:29:\nvideo:x:44:\nusers:x:100:\nnobody:x:65534:\n")
	image.text("etc/shadow", 0o640, ""+
		"root:*:10933:0:99999:7:::\ndaemon:*:10933:0:99999:7:::\nbin:*:10933:0:99999:7:::\nsys:*:10933:0:99999:7:::\n"+
		"sync:*:10933:0:99999:7:::\nmail:*:10933:0:99999:7:::\nwww-data:*:10933:0:99999:7:::\n"+
		"operator:*:10933:0:99999:7:::\n"+
		"nobody:*:10933:0:99999:7:::\n")
	return w.addAll(image)
}
