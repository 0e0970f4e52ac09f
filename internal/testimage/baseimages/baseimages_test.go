package baseimages

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/filelock"
	"github.com/stepwright/stepwright/internal/testimage/imagetest"
)

// made returns the images of the default store, which are made once for all tests, and again only when their inputs
// change.
func made(t *testing.T, names ...string) Store {
	t.Helper()
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	dir, err := DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	store := Store{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if err := store.Ensure(t.Context(), names...); err != nil {
		t.Fatal(err)
	}
	return store
}

// fresh returns an empty store that need not fetch package lists again.
func fresh(t *testing.T) Store {
	t.Helper()
	from := made(t, Busybox)
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "apt"), os.DirFS(filepath.Join(from.Dir, "apt"))); err != nil {
		t.Fatal(err)
	}
	// Its sources.list names no folder, so that a copy is as good.
	return Store{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// unpacked returns the headers of an image's files, and the content of those that are small.
func unpacked(t *testing.T, img v1.Image) (map[string]*tar.Header, map[string]string) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string]string{}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		imagetest.Walk(t, layer, func(header *tar.Header, content io.Reader) {
			file := strings.TrimSuffix(header.Name, "/")
			if file == "" || strings.HasPrefix(file, ".") || strings.HasPrefix(file, "/") {
				t.Errorf("name %q is not relative to the root", header.Name)
			}
			headers[file] = header
			if header.Size < 1<<20 {
				data, err := io.ReadAll(content)
				if err != nil {
					t.Fatal(err)
				}
				contents[file] = string(data)
			}
		})
	}
	return headers, contents
}

func imageOf(t *testing.T, store Store, ref string) v1.Image {
	t.Helper()
	img, err := store.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func configOf(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImages(t *testing.T) {
	store := made(t)
	path := "PATH=" + defaultPath
	for ref, want := range map[string]struct {
		config v1.Config
		has    map[string]int64 // files and folders, with their modes
		lacks  []string         // what starts so
		holds  map[string]string
	}{
		Busybox: {
			config: v1.Config{Env: []string{path}, Cmd: []string{"sh"}},
			has: map[string]int64{
				"bin/[":      0o755,
				"bin/sh":     0o755,
				"bin/wget":   0o755,
				"tmp":        0o1777,
				"root":       0o700,
				"etc/shadow": 0o640,
			},
			holds: map[string]string{"etc/passwd": "nobody:x:65534:65534:", "etc/group": "www-data:x:33:"},
		},
		Static: {
			config: v1.Config{Env: []string{path, "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"}, User: "65532",
				WorkingDir: "/home/nonroot"},
			has: map[string]int64{
				"tmp":                             0o1777,
				"home/nonroot":                    0o700,
				"etc/services":                    0o644,
				"usr/share/zoneinfo/Asia/Colombo": 0o644,
			},
			lacks: []string{"bin/", "usr/bin/", "sbin/", "usr/share/man/"},
			holds: map[string]string{
				"etc/passwd": "nonroot:x:65532:65532:nonroot:/home/nonroot:", "etc/group": "nonroot:x:65532:",
				"usr/lib/os-release": "VERSION_CODENAME=bookworm", "var/lib/dpkg/status.d/tzdata": "Package: tzdata\n",
			},
		},
		Debian: {
			config: v1.Config{Env: []string{path}, Cmd: []string{"bash"}},
			has: map[string]int64{"usr/bin/bash": 0o755, "usr/bin/apt-get": 0o755, "tmp": 0o1777, "usr/bin/su": 0o4755,
				"usr/sbin/policy-rc.d": 0o755},
			lacks: []string{
				"dev/", "etc/hostname", "etc/resolv.conf", "usr/share/man/man1/", "usr/share/doc/bash/changelog",
				"usr/share/locale/de/",
				"var/lib/apt/lists/", "var/cache/apt/archives/",
			},
			holds: map[string]string{"etc/os-release": "", "etc/passwd": "www-data:x:33:",
				"var/lib/dpkg/status": "Package: libc6\nStatus: install ok installed\n"},
		},
		Golang: {
			config: v1.Config{
				Env: []string{
					"PATH=/go/bin:/usr/local/go/bin:" + defaultPath,
					"GOLANG_VERSION=" + strings.TrimPrefix(runtime.Version(), "go"),
					"GOTOOLCHAIN=local", "GOPATH=/go",
				},
				Cmd: []string{"bash"}, WorkingDir: "/go",
			},
			has: map[string]int64{
				"usr/bin/bash": 0o755, "usr/local/go/bin/go": 0o755, "usr/local/go/src/fmt/print.go": 0o644,
				"go/src": 0o1777,
				"usr/local/go/pkg/tool/linux_" + runtime.GOARCH + "/compile": 0o755,
				"etc/ssl/certs/ca-certificates.crt":                          0o644,
			},
			lacks: []string{"usr/local/go/src/fmt/fmt_test.go", "usr/local/go/api/", "usr/local/go/test/",
				"usr/local/go/src/go/parser/testdata/"},
			holds: map[string]string{"usr/local/go/VERSION": runtime.Version() + "\n"},
		},
	} {
		t.Run(ref, func(t *testing.T) {
			img := imageOf(t, store, ref)
			var depth []validate.Option
			if ref == Debian || ref == Golang {
				depth = append(depth, validate.Fast) // the writer is the same, the layers are large
			}
			if err := validate.Image(img, depth...); err != nil {
				t.Error(err)
			}
			if media, err := img.MediaType(); err != nil || media != types.OCIManifestSchema1 {
				t.Errorf("media type %s, %v", media, err)
			}
			file := configOf(t, img)
			if file.OS != "linux" || file.Architecture != runtime.GOARCH {
				t.Errorf("platform %s/%s", file.OS, file.Architecture)
			}
			if !file.Created.Equal(epoch) {
				t.Errorf("created %s", file.Created)
			}
			if diff := cmp.Diff(want.config, file.Config); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
			headers, contents := unpacked(t, img)
			for name, mode := range want.has {
				if header, ok := headers[name]; !ok {
					t.Errorf("%s is absent", name)
				} else if header.Mode&0o7777 != mode {
					t.Errorf("%s has mode %#o, want %#o", name, header.Mode, mode)
				}
			}
			for name, header := range headers {
				if i := slices.IndexFunc(want.lacks, func(prefix string) bool {
					return strings.HasPrefix(name, prefix)
				}); i >= 0 && header.Typeflag != tar.TypeDir {
					t.Errorf("%s is there, though %s must not", name, want.lacks[i])
				}
				if header.Typeflag == tar.TypeChar || header.Typeflag == tar.TypeBlock {
					t.Errorf("%s is a device, which only root can unpack", name)
				}
				if header.Uname != "" || header.ModTime.After(epoch) {
					t.Errorf("%s tells of user %q and time %s", name, header.Uname, header.ModTime)
					break
				}
				if header.Typeflag == tar.TypeLink && headers[header.Linkname] == nil {
					t.Errorf("%s is a link to %s, which is absent", name, header.Linkname)
				}
			}
			for name, part := range want.holds {
				if headers[name] == nil || !strings.Contains(contents[name], part) {
					t.Errorf("%s lacks %q: %q", name, part, contents[name])
				}
			}
			for name, content := range contents {
				if home, err := os.UserHomeDir(); err == nil && home != "/root" && strings.Contains(content, home) {
					t.Errorf("%s tells of %s", name, home)
				}
			}
		})
	}
}

func TestGolangSharesDebiansLayer(t *testing.T) {
	store := made(t, Golang)
	debian, err := imageOf(t, store, Debian).Layers()
	if err != nil {
		t.Fatal(err)
	}
	golang, err := imageOf(t, store, Golang).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(debian) != 1 || len(golang) != 2 {
		t.Fatalf("debian has %d layers, golang %d; want 1 and 2", len(debian), len(golang))
	}
	want, _ := debian[0].Digest()
	got, _ := golang[0].Digest()
	if got != want {
		t.Errorf("golang starts with %s, debian is %s", got, want)
	}
}

func TestStaticTrustsDebiansAuthorities(t *testing.T) {
	_, contents := unpacked(t, imageOf(t, made(t, Static), Static))
	found := 0
	for rest := []byte(contents[certificates]); ; found++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if len(bytes.TrimSpace(rest)) > 0 {
				t.Errorf("the bundle ends in %q", rest)
			}
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			t.Errorf("certificate %d: %v", found, err)
		}
	}
	if found < 100 {
		t.Errorf("%d certificates, want at least 100", found)
	}
}

func TestBusyboxRuns(t *testing.T) {
	headers, _ := unpacked(t, imageOf(t, made(t, Busybox), Busybox))
	if headers["bin/sh"].Typeflag != tar.TypeLink {
		t.Fatal("bin/sh is not a link to the one binary")
	}
	layers, err := imageOf(t, made(t, Busybox), Busybox).Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	root := t.TempDir()
	unpack := exec.CommandContext(t.Context(), "tar", "--extract", "--directory", root, "--no-same-owner")
	unpack.Stdin = content
	if out, err := unpack.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	out, err := exec.CommandContext(
		t.Context(), filepath.Join(root, "bin/sh"), "-c", "echo hello | sed s/hello/bye/",
	).CombinedOutput()
	if err != nil || string(out) != "bye\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestTwoStoresHaveTheSameDigests(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	t.Parallel()
	one, two := fresh(t), fresh(t)
	for _, store := range []Store{one, two} {
		if err := store.Ensure(t.Context(), "busybox:1", Static); err != nil {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{Busybox, Static} {
		first, err := imageOf(t, one, ref).Digest()
		if err != nil {
			t.Fatal(err)
		}
		second, err := imageOf(t, two, ref).Digest()
		if err != nil {
			t.Fatal(err)
		}
		if first != second {
			t.Errorf("%s: %s and %s", ref, first, second)
		}
	}
	if _, err := two.Image(Debian); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("debian was not asked for: %v", err)
	}
}

func TestEnsureMakesOnlyWhatChanged(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	t.Parallel()
	store := fresh(t)
	folders := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(store.Dir, "busybox-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	ensure := func() os.FileInfo {
		t.Helper()
		if err := store.Ensure(t.Context(), Busybox); err != nil {
			t.Fatal(err)
		}
		if len(folders()) != 1 {
			t.Fatalf("folders %q, want one", folders())
		}
		info, err := os.Stat(folders()[0])
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := ensure()
	if again := ensure(); !os.SameFile(first, again) {
		t.Error("made again though nothing changed")
	}
	store.Force = true
	if forced := ensure(); os.SameFile(first, forced) || forced.Name() != first.Name() {
		t.Error("not made again under the same name though forced")
	}
	store.Force = false

	// What an older package would leave: a layout with another key, and one that a killed process did not finish.
	for _, old := range []string{
		filepath.Join(store.Dir, "busybox-1@000000000000"), filepath.Join(store.Dir, unfinishedPrefix+"1"),
	} {
		if err := os.CopyFS(old, os.DirFS(folders()[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(store.Dir, first.Name())); err != nil {
		t.Fatal(err)
	}
	if remade := ensure(); remade.Name() != first.Name() {
		t.Errorf("made as %s, want %s", remade.Name(), first.Name())
	}
	if left, _ := filepath.Glob(filepath.Join(store.Dir, unfinishedPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestEnsureWaitsForAnotherProcess(t *testing.T) {
	if testing.Short() {
		t.Skip("makes images of Debian packages")
	}
	t.Parallel()
	store := Store{Dir: t.TempDir()}
	unlock, err := filelock.Exclusive(t.Context(), store.lockFile())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := store.Ensure(ctx, Busybox); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v while another holds the lock", err)
	}
	if err := store.Push(ctx, "127.0.0.1:1", Busybox); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v while another holds the lock", err)
	}
}

func TestUnknownNamesAreRefused(t *testing.T) {
	t.Parallel()
	err := Store{Dir: t.TempDir()}.Ensure(t.Context(), "alpine:3")
	if err == nil || !strings.Contains(err.Error(), `"alpine:3" cannot be made`) ||
		!strings.Contains(err.Error(), Debian) {
		t.Errorf("got %v, want an error with the name and those that can be made", err)
	}
}

func TestPushSkipsWhatIsThere(t *testing.T) {
	t.Parallel()
	store := made(t, Busybox, Static)
	var writes atomic.Int32
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	if err := store.Push(t.Context(), host, Busybox, Static); err != nil {
		t.Fatal(err)
	}
	for ref, path := range map[string]string{
		Busybox: "library/busybox:1",
		Static:  "distroless/static-debian12:nonroot",
	} {
		target, err := name.ParseReference(host+"/"+path, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		pulled, err := remote.Image(target)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(pulled); err != nil {
			t.Error(err)
		}
		got, _ := pulled.Digest()
		if want, err := imageOf(t, store, ref).Digest(); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", path, got, want, err)
		}
	}
	if writes.Swap(0) == 0 {
		t.Fatal("the images were there without a write")
	}
	if err := store.Push(t.Context(), host, Busybox, Static); err != nil {
		t.Fatal(err)
	}
	if n := writes.Load(); n > 0 {
		t.Errorf("%d writes though all was there", n)
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/a/b", "/with space", `/it's "x" \ $HOME`} {
		out, err := exec.CommandContext(
			t.Context(), "perl", "-MText::ParseWords", "-e", `my @w = shellwords($ARGV[0]); print join("\n", @w)`,
			"copy-in "+quote(path)+" /var",
		).Output()
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("perl is not installed; mmdebstrap needs it")
		}
		if want := fmt.Sprintf("copy-in\n%s\n/var", path); string(out) != want {
			t.Errorf("%s became %q, want %q", path, out, want)
		}
	}
}

// The facts an image is keyed by name every package by version and digest.
func TestInputsAreExact(t *testing.T) {
	store := made(t, Debian)
	folders, err := filepath.Glob(filepath.Join(store.Dir, "debian-bookworm-slim@*"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("folders %q, %v", folders, err)
	}
	facts, err := os.ReadFile(filepath.Join(folders[0], "inputs"))
	if err != nil {
		t.Fatal(err)
	}
	_, contents := unpacked(t, imageOf(t, store, Debian))
	installed := strings.Count(contents["var/lib/dpkg/status"], "Status: install ok installed\n")
	if named := strings.Count(string(facts), ".deb SHA256:"); named != installed || named == 0 {
		t.Errorf("%d packages are installed, but the key names %d", installed, named)
	}
}

func TestMachineGo(t *testing.T) {
	t.Parallel()
	found, err := machineGo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if found.Version != runtime.Version() {
		data, _ := json.Marshal(found)
		t.Errorf("found %s, running %s", data, runtime.Version())
	}
}

func TestDebianSources(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ targets, want string }{
		"nothing":              {"", ""},
		"another distribution": {"Ubuntu main noble http://mirror.example.com/ubuntu/\n", ""},
		"bookworm": {`
Debian main bookworm http://mirror.example.com/debian/
Debian main bookworm-updates http://mirror.example.com/debian/
Debian main bookworm-security http://security.example.com/debian-security/
`, `
deb [signed-by=KEYS] http://mirror.example.com/debian/ bookworm main
deb [signed-by=KEYS] http://mirror.example.com/debian/ bookworm-updates main
deb [signed-by=KEYS] http://security.example.com/debian-security/ bookworm-security main
`},
		"a newer Debian with more than main": {`
Debian main trixie http://mirror.example.com/debian/
Debian contrib trixie http://mirror.example.com/debian/
Debian main trixie-backports http://mirror.example.com/debian/
Debian main trixie-security http://mirror.example.com/debian-security/
`, `
deb [signed-by=KEYS] http://mirror.example.com/debian/ bookworm main
deb [signed-by=KEYS] http://mirror.example.com/debian-security/ bookworm-security main
`},
		"others' sources, two architectures": {`
Vendor main bookworm http://vendor.example.com/
 main bookworm http://unnamed.example.com/
Debian main bookworm http://mirror.example.com/debian/
Debian main bookworm http://mirror.example.com/debian/
`, `
deb [signed-by=KEYS] http://mirror.example.com/debian/ bookworm main
`},
	} {
		t.Run(name, func(t *testing.T) {
			want := strings.ReplaceAll(strings.TrimPrefix(test.want, "\n"), "KEYS", keyring)
			if diff := cmp.Diff(want, debianSources(test.targets)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What mmdebstrap makes differs between machines, and between root and others, only in files that copyTree leaves out.
func TestCopyTreeLeavesTheMachineOut(t *testing.T) {
	t.Parallel()
	var from, to bytes.Buffer
	source := tar.NewWriter(&from)
	for _, header := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./dev/", Mode: 0o755},
		{Typeflag: tar.TypeChar, Name: "./dev/null", Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeDir, Name: "./"},
		{Typeflag: tar.TypeReg, Name: "./etc/hostname"},
		{Typeflag: tar.TypeReg, Name: "./etc/resolv.conf"},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/perl", Mode: 0o755, ModTime: epoch.Add(-time.Hour)},
		{Typeflag: tar.TypeLink, Name: "./usr/bin/perl5.36.0", Linkname: "./usr/bin/perl",
			ModTime: epoch.Add(time.Hour)},
		{Typeflag: tar.TypeSymlink, Name: "./usr/bin/sh", Linkname: "dash", Uname: "root"},
		{Typeflag: tar.TypeDir, Name: "./var/lib/apt/lists/"},
		{Typeflag: tar.TypeReg, Name: "./var/lib/apt/lists/lock", Uid: 1000},
		{Typeflag: tar.TypeDir, Name: "./var/lib/apt/lists/partial/", Uid: 42},
	} {
		if err := source.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	if err := source.Close(); err != nil {
		t.Fatal(err)
	}
	w := &layerWriter{tar: tar.NewWriter(&to)}
	if err := copyTree(w, &from); err != nil {
		t.Fatal(err)
	}
	if err := w.tar.Close(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for reader := tar.NewReader(&to); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uname != "" {
			t.Errorf("%s tells of user %q", header.Name, header.Uname)
		}
		got = append(got, strings.TrimSpace(fmt.Sprintf("%c %s %s", header.Typeflag, header.Name, header.Linkname)))
		if header.ModTime.After(epoch) {
			t.Errorf("%s is of %s", header.Name, header.ModTime)
		}
	}
	want := []string{
		"5 dev/", "0 usr/bin/perl", "1 usr/bin/perl5.36.0 usr/bin/perl", "2 usr/bin/sh dash", "5 var/lib/apt/lists/",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
