package baseimages

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const suite = "bookworm" // Debian 12

// keyring is in Debian's package debian-archive-keyring, which every Debian has.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// An archive is Debian's, asked through an apt with lists and caches of its own: it needs no root, leaves the machine's
// apt alone, and knows only the suite the images are made from, whatever Debian the machine runs. Mirror, proxy and the
// like are the machine's.
type archive struct {
	root string
	log  *slog.Logger
}

func (a *archive) sources() string { return filepath.Join(a.root, "sources.list") }
func (a *archive) lists() string   { return filepath.Join(a.root, "state", "lists") }

// refresh fetches the package lists when they are absent or older than allowed. Without a network the old ones have to
// do.
func (a *archive) refresh(ctx context.Context, allowed time.Duration) error {
	stamp := filepath.Join(a.root, "refreshed")
	info, err := os.Stat(stamp)
	if err == nil && time.Since(info.ModTime()) < allowed {
		return nil
	}
	present := err == nil
	if err := a.fetch(ctx); err != nil {
		if !present || ctx.Err() != nil {
			return fmt.Errorf("fetch Debian's package lists: %w", err)
		}
		a.log.Warn(
			"Cannot refresh Debian's package lists, using the old ones", "from", info.ModTime().Format(time.DateOnly),
			"because", err,
		)
	}
	// The stamp is set in either case, or a machine without a network would try, and wait, each time.
	return os.WriteFile(stamp, nil, 0o644)
}

func (a *archive) fetch(ctx context.Context) error {
	started := time.Now()
	for _, folder := range []string{a.lists() + "/partial", a.root + "/cache/archives/partial", a.root + "/resolved"} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	// An empty status: apt takes nothing for installed.
	if err := os.WriteFile(filepath.Join(a.root, "state", "status"), nil, 0o644); err != nil {
		return err
	}
	sources, err := machineSources(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.sources(), []byte(sources), 0o644); err != nil {
		return err
	}
	if _, err := a.apt(ctx, "", "update", "--error-on=any"); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(a.root, "resolved")); err != nil {
		return err
	}
	a.log.Info("Fetched Debian's package lists", "took", time.Since(started).Round(10*time.Millisecond))
	return nil
}

// machineSources returns the machine's sources of Debian's main component, pointed at the suite the images are made
// from.
func machineSources(ctx context.Context) (string, error) {
	targets, err := run(
		ctx, "", "apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)",
		"Created-By: Packages",
	)
	if err != nil {
		return "", err
	}
	sources := debianSources(string(targets))
	if sources == "" {
		return "", errors.New(
			"apt knows no source of Debian packages: on Debian run apt-get update; elsewhere let the machine reach " +
				"docker.io and gcr.io instead",
		)
	}
	return sources, nil
}

// debianSources picks Debian's own among a machine's targets, one a line with origin, component, codename and URI.
func debianSources(targets string) string {
	var sources []string
	for line := range strings.Lines(targets) {
		fields := strings.Fields(line)
		if len(fields) != 4 || fields[0] != "Debian" || fields[1] != "main" {
			continue
		}
		codename := suite
		switch _, pocket, _ := strings.Cut(fields[2], "-"); pocket {
		case "":
		case "updates", "security":
			codename += "-" + pocket
		default: // backports and the like
			continue
		}
		source := fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keyring, fields[3], codename)
		if !slices.Contains(sources, source) { // as each foreign architecture would have it again
			sources = append(sources, source)
		}
	}
	return strings.Join(sources, "")
}

// closure returns a line for each package that installing these brings along: its file, which has the version, and its
// digest.
func (a *archive) closure(ctx context.Context, packages ...string) (string, error) {
	return a.resolve(ctx, append([]string{"install"}, packages...))
}

// versions returns such a line for each of these packages alone.
func (a *archive) versions(ctx context.Context, packages ...string) (string, error) {
	return a.resolve(ctx, append([]string{"download"}, packages...))
}

// resolve asks apt what it would fetch. It keeps the answer as long as the lists, because apt takes its time.
func (a *archive) resolve(ctx context.Context, args []string) (string, error) {
	key := sha256.Sum256([]byte(strings.Join(args, "\x00")))
	kept := filepath.Join(a.root, "resolved", hex.EncodeToString(key[:8]))
	if lines, err := os.ReadFile(kept); err == nil {
		return string(lines), nil
	}
	out, err := a.apt(ctx, "", append([]string{"-qq", "--print-uris"}, args...)...)
	if err != nil {
		return "", err
	}
	var lines strings.Builder
	for line := range strings.Lines(string(out)) {
		// 'URI' file size algorithm:digest
		fields := strings.Fields(line)
		if len(fields) != 4 || !strings.HasPrefix(fields[3], "SHA256:") {
			return "", fmt.Errorf(
				"apt answered %q instead of a package's URI, file, size and SHA-256", strings.TrimSpace(line),
			)
		}
		fmt.Fprintln(&lines, fields[1], fields[3])
	}
	if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
		return "", err
	}
	return lines.String(), os.WriteFile(kept, []byte(lines.String()), 0o644)
}

// A debianPackage is one that has been downloaded.
type debianPackage struct{ name, file string }

// download fetches packages, without those they depend on, into a folder.
func (a *archive) download(ctx context.Context, folder string, names ...string) ([]debianPackage, error) {
	if _, err := a.apt(ctx, folder, append([]string{"-qq", "download"}, names...)...); err != nil {
		return nil, err
	}
	packages := make([]debianPackage, 0, len(names))
	for _, name := range names {
		found, err := filepath.Glob(filepath.Join(folder, name+"_*.deb"))
		if err != nil {
			return nil, err
		}
		if len(found) != 1 {
			return nil, fmt.Errorf("apt left %d files of package %s, want 1", len(found), name)
		}
		packages = append(packages, debianPackage{name, found[0]})
	}
	return packages, nil
}

// read calls use for each file of the package, by its name relative to the root.
func (p debianPackage) read(ctx context.Context, use func(name string, header *tar.Header, data []byte) error) error {
	out, err := run(ctx, "", "dpkg-deb", "--fsys-tarfile", p.file)
	if err != nil {
		return err
	}
	for reader := tar.NewReader(bytes.NewReader(out)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package %s: %w", p.name, err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			return fmt.Errorf("read package %s: %w", p.name, err)
		}
		if name := relative(header.Name); name != "" {
			if err := use(name, header, data); err != nil {
				return err
			}
		}
	}
}

// control returns the package's description, as dpkg would keep it.
func (p debianPackage) control(ctx context.Context) (string, error) {
	out, err := run(ctx, "", "dpkg-deb", "--field", p.file)
	return string(out), err
}

// relative makes `./usr/bin/` usr/bin, and the root empty.
func relative(name string) string {
	return strings.Trim(strings.TrimPrefix(name, "."), "/")
}

func (a *archive) apt(ctx context.Context, folder string, args ...string) ([]byte, error) {
	options := []string{
		"-o", "Dir::State=" + a.root + "/state",
		"-o", "Dir::State::Lists=" + a.lists(),
		"-o", "Dir::State::Status=" + a.root + "/state/status",
		"-o", "Dir::Cache=" + a.root + "/cache",
		"-o", "Dir::Cache::Archives=" + a.root + "/cache/archives",
		"-o", "Dir::Etc::SourceList=" + a.sources(),
		"-o", "Dir::Etc::SourceParts=/dev/null",
		"-o", "Dir::Etc::Preferences=/dev/null",
		"-o", "Dir::Etc::PreferencesParts=/dev/null",
		"-o", "APT::Sandbox::User=root", // or apt, as root, reads and writes as a user who may not enter this folder
		"-o", "APT::Install-Recommends=false",
		"-o", "Acquire::ForceHash=SHA256",
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"-o", "Acquire::Retries=3",
	}
	return run(ctx, folder, "apt-get", append(options, args...)...)
}

// run runs one of Debian's tools in a folder and returns what it prints. Its complaints become the error.
func run(ctx context.Context, folder, tool string, args ...string) ([]byte, error) {
	cmd := command(ctx, tool, args...)
	cmd.Dir = folder
	return output(ctx, cmd)
}

func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, failure(ctx, cmd.Args[0], err, complaints.Bytes())
	}
	return out, nil
}

// command prepares one of Debian's tools: in no language, and with the folders an ordinary user's PATH lacks.
func command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		"PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()))
	// When told to stop, mmdebstrap waits for those it started and then cleans up: they must hear of it, too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// failure tells why a tool failed, with the last lines it wrote.
func failure(ctx context.Context, tool string, err error, complaints []byte) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%s is not installed; ci/install/install.sh base-images installs what is needed", tool)
	}
	lines := strings.Split(strings.TrimSpace(string(complaints)), "\n")
	lines = lines[max(0, len(lines)-5):]
	return fmt.Errorf("%s: %w: %s", tool, err, strings.Join(lines, "; "))
}
