package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/stepwright/stepwright/ci/release/chart"
	"github.com/stepwright/stepwright/ci/release/sbom"
)

// programs are the programs of a release by their packages, and whether they are for every operating system. Builds
// need Linux; generate-workload-cr is what pipelines of other CIs run on any machine.
var programs = []struct {
	name      string
	dir       string
	elsewhere bool
}{
	{"checkout-source", "./steps/checkout-source", false},
	{"containerfile-build", "./steps/containerfile-build", false},
	{"buildpacks-build", "./steps/buildpacks-build", false},
	{"scan-gate", "./steps/scan-gate", false},
	{"commit-status", "./steps/commit-status", false},
	{"publish-image", "./steps/publish-image", false},
	{"generate-workload-cr", "./steps/generate-workload-cr", true},
	{"stepwright", "./cmd/stepwright", true},
}

// Names of files of a release.
const (
	sums       = "SHA256SUMS"
	notes      = "RELEASE_NOTES.md"
	references = "images.txt"
	imagesDir  = "images"
	chartDir   = imagesDir + "/charts/" + chart.Name // the layout of the chart
	pipelines  = "external-ci.tar.gz"
	provenance = "provenance.intoto.json"
	signed     = "provenance.sigstore.json" // of a release that is published with a key
)

// home is where images and charts are published.
const home = "ghcr.io/stepwright"

// A release is made in a folder.
type release struct {
	source, out            string
	version                string
	architectures, systems []string
	commit                 time.Time
	say                    func(format string, args ...any)
	stderr                 io.Writer
}

var versions = regexp.MustCompile(`\A\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?\z`)

func (r *release) build(ctx context.Context) error {
	if !versions.MatchString(r.version) {
		return fmt.Errorf("%q is no version such as 1.2.3 or 1.2.3-rc.1", r.version)
	}
	text, err := changes(filepath.Join(r.source, "CHANGELOG.md"), r.version)
	if err != nil {
		return err
	}
	if r.commit, err = r.timeOfCommit(ctx); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "stepwright-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	r.say("Stamping version %s", r.version)
	stamped := filepath.Join(scratch, "tree")
	if err := r.stamp(ctx, stamped); err != nil {
		return err
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	// The steps know no version, so their images are of the checkout itself, whose commit they tell.
	images := filepath.Join(r.out, imagesDir)
	r.say("Making the images")
	if err := r.run(
		ctx, r.source, nil, "go", append([]string{
			"run", "./images", "build", "--version", r.version, "--dir", images, "--arch",
			strings.Join(r.architectures, ","),
		}, imageNames()...)...,
	); err != nil {
		return err
	}
	for _, system := range r.systems {
		for _, architecture := range r.architectures {
			r.say("Building the programs for %s/%s", system, architecture)
			if err := r.compile(ctx, stamped, system, architecture); err != nil {
				return err
			}
		}
	}
	revision, err := r.revision()
	if err != nil {
		return err
	}
	r.say("Writing lists of parts, provenance, installs and the chart")
	files := map[string][]byte{notes: []byte(text)}
	if err := r.addImages(files, revision); err != nil { // first: the others have digests of what it attests
		return err
	}
	for _, add := range []func(files map[string][]byte, stamped string) error{
		r.addBundles, r.addChart, r.addTemplates,
	} {
		if err := add(files, stamped); err != nil {
			return err
		}
	}
	if err := writeAll(r.out, files); err != nil {
		return err
	}
	sum, err := writeSums(r.out)
	if err != nil {
		return err
	}
	// What has the checksum of the checksums is not among them: pipelines, and where all comes from.
	external, err := externalCI(stamped, sum)
	if err != nil {
		return err
	}
	about, err := r.origin(revision)
	if err != nil {
		return err
	}
	if err := writeAll(r.out, map[string][]byte{pipelines: external, provenance: about}); err != nil {
		return err
	}
	r.say("Made %s; SHA-256 of %s: %s", r.out, sums, sum)
	return nil
}

func (r *release) timeOfCommit(ctx context.Context) (time.Time, error) {
	said := os.Getenv("SOURCE_DATE_EPOCH")
	if said == "" {
		cmd := exec.CommandContext(ctx, "git", "-C", r.source, "log", "-1", "--format=%ct")
		cmd.Stderr = r.stderr
		out, err := cmd.Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", cmd, err)
		}
		said = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(said, 10, 64)
	return time.Unix(seconds, 0).UTC(), err
}

// stamp copies the files of the checkout, as they are, into a folder, and has make generate put the version into them.
func (r *release) stamp(ctx context.Context, dir string) error {
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir, list.Stderr = r.source, r.stderr
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if err := copyFile(filepath.Join(r.source, name), filepath.Join(dir, name)); err != nil &&
			!errors.Is(err, fs.ErrNotExist) { // removed, and not yet committed
			return err
		}
	}
	home := filepath.Join(dir, "templates", "VERSION")
	if old, err := os.ReadFile(home); err != nil || strings.TrimSpace(string(old)) == r.version {
		return err
	}
	if err := os.WriteFile(home, []byte(r.version+"\n"), 0o644); err != nil {
		return err
	}
	return r.run(ctx, dir, nil, "go", "run", "./ci/generate")
}

// copyFile copies a file, or a link as such.
func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}

func (r *release) run(ctx context.Context, dir string, environment []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = r.stderr, r.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", cmd, err)
	}
	return nil
}

// compile builds the programs for a platform, and lists what they are made of. They are the same wherever and whenever
// they are built of the same files by the same Go.
func (r *release) compile(ctx context.Context, dir, system, architecture string) error {
	into, err := os.MkdirTemp("", "stepwright-programs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(into)
	args := []string{
		"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", into + string(filepath.Separator),
	}
	var names []string
	for _, p := range programs {
		if system == "linux" || p.elsewhere {
			names = append(names, p.name)
			args = append(args, p.dir)
		}
	}
	if err := r.run(ctx, dir, []string{
		"CGO_ENABLED=0", "GOOS=" + system, "GOARCH=" + architecture, "GOAMD64=v1", "GOARM64=v8.0", "GOFLAGS=",
		"GOWORK=off", "GOEXPERIMENT=", "GOFIPS140=off",
	}, "go", args...); err != nil {
		return err
	}
	suffix := ""
	if system == "windows" {
		suffix = ".exe"
	}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(into, name+suffix))
		if err != nil {
			return err
		}
		full := name + "_" + system + "_" + architecture
		list, err := sbom.OfProgram(full+suffix, content, r.version, r.commit)
		if err != nil {
			return err
		}
		if err := errors.Join(
			os.WriteFile(filepath.Join(r.out, full+suffix), content, 0o755),
			os.WriteFile(filepath.Join(r.out, full+".spdx.json"), list, 0o644),
		); err != nil {
			return err
		}
	}
	return nil
}

// addBundles adds the single-file installs, with the digests of the images.
func (r *release) addBundles(files map[string][]byte, stamped string) error {
	bundles, err := bundle([]string{
		filepath.Join(stamped, "templates/workflow-plane"), filepath.Join(stamped, "templates/control-plane"),
	}, filepath.Join(r.out, imagesDir))
	maps.Copy(files, bundles)
	return err
}

// addChart adds the Helm chart, and writes its layout.
func (r *release) addChart(files map[string][]byte, stamped string) error {
	digests, err := r.digests()
	if err != nil {
		return err
	}
	maps.DeleteFunc(digests, func(image, _ string) bool { return !slices.Contains(steps(), image) })
	content, err := chart.Files(filepath.Join(stamped, "templates"), r.version, digests)
	if err != nil {
		return err
	}
	inside := map[string]entry{}
	for name, text := range content {
		inside[path.Join(chart.Name, name)] = entry{content: text, mode: 0o644}
	}
	archive, err := archiveOf(inside)
	if err != nil {
		return err
	}
	files[chart.Name+"-"+r.version+".tgz"] = archive
	return chart.WriteLayout(filepath.Join(r.out, chartDir), content["Chart.yaml"], archive, r.version)
}

// digests are the digests of the images by their names.
func (r *release) digests() (map[string]string, error) {
	all := map[string]string{}
	for _, name := range imageNames() {
		digest, err := digestOf(filepath.Join(r.out, imagesDir, name))
		if err != nil {
			return nil, err
		}
		all[name] = digest
	}
	return all, nil
}

// imageNames are the names of the images: one for each step, and the scanner that lists what is in images.
func imageNames() []string { return append(steps(), "sbom-scanner") }

// steps are the names of the steps, each of which has an image.
func steps() []string {
	var all []string
	for _, p := range programs {
		if strings.HasPrefix(p.dir, "./steps/") {
			all = append(all, p.name)
		}
	}
	return all
}

// addTemplates adds the folder of templates, for those who keep an overlay. Go's files are the project's own.
func (r *release) addTemplates(files map[string][]byte, stamped string) error {
	inside, err := entries(stamped, "templates", func(name string) bool { return !strings.HasSuffix(name, ".go") })
	if err != nil {
		return err
	}
	files["templates.tar.gz"], err = archiveOf(inside)
	return err
}

// noSum stands in pipelines where the checksum of a release's SHA256SUMS goes.
var noSum = strings.Repeat("0", 64)

// externalCI is an archive of the pipelines of other CIs, which fetch what the checksum is of.
func externalCI(stamped, sum string) ([]byte, error) {
	inside, err := entries(stamped, "examples/external-ci", func(string) bool { return true })
	if err != nil {
		return nil, err
	}
	const action = "examples/external-ci/github-actions/register-workload/action.yml"
	stamps := 0
	for name, e := range inside {
		text := string(e.content)
		stamps += strings.Count(text, noSum)
		text = strings.ReplaceAll(text, noSum, sum)
		if name == action {
			before, after, found := strings.Cut(text, "\n  checksum:\n")
			about, rest, required := strings.Cut(after, "\n    required: true\n")
			if !found || !required || strings.Count(about, "\n") > 0 {
				return nil, fmt.Errorf("%s: has no place for the checksum", action)
			}
			stamps++
			text = before + "\n  checksum:\n" + about + "\n    default: " + sum + "\n" + rest
		}
		inside[name] = entry{content: []byte(text), mode: e.mode}
	}
	if stamps < 4 { // the action, GitLab, Jenkins with and without Docker
		return nil, fmt.Errorf("examples/external-ci: only %d places have the checksum", stamps)
	}
	return archiveOf(inside)
}

// changes is the section of a version in a change log; of a pre-release without its own, that of the version itself.
func changes(file, version string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	final, _, _ := strings.Cut(version, "-")
	for _, title := range slices.Compact([]string{version, final}) {
		_, after, found := strings.Cut(string(raw), "\n## "+title+"\n")
		if !found {
			continue
		}
		section, _, _ := strings.Cut(after, "\n## ")
		return "# Stepwright " + version + "\n\n" + strings.TrimSpace(section) + "\n", nil
	}
	return "", fmt.Errorf("%s has no section ## %s: users would not learn what is new", file, final)
}
