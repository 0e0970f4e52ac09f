package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/ci/release/chart"
	"github.com/stepwright/stepwright/images/layouts"
	"github.com/stepwright/stepwright/internal/cli"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/guidetest"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/verifiertest"
)

const next = "98.7.6-rc.1"

// madeUp is a release of this checkout, stamped as the version next, with images of random content instead of its own,
// and a text for programs.
func madeUp(t *testing.T) (r release, stamped string, sum string) {
	t.Helper()
	if testing.Short() {
		t.Skip("compiles the command generate")
	}
	if _, err := os.Stat("../../.git"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("Git has the list of the project's files, and this is a copy without it")
	}
	stamped = filepath.Join(t.TempDir(), "tree")
	r = release{
		source: "../..", out: t.TempDir(), version: next, architectures: []string{runtime.GOARCH},
		commit: time.Unix(1_700_000_000, 0), say: t.Logf, stderr: os.Stderr,
	}
	if err := r.stamp(t.Context(), stamped); err != nil {
		t.Fatal(err)
	}
	for _, name := range imageNames() {
		img, err := random.Image(100, 1, random.WithSource(zeros{}))
		if err != nil {
			t.Fatal(err)
		}
		img = mutate.MediaType(mutate.ConfigMediaType(img, types.OCIConfigJSON), types.OCIManifestSchema1)
		index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}},
		})
		dir := filepath.Join(r.out, imagesDir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := layout.Write(dir, empty.Index)
		if err == nil {
			err = root.AppendIndex(index, layout.WithAnnotations(map[string]string{layouts.RefName: next}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const revision = "cccccccccccccccccccccccccccccccccccccccc-dirty"
	files := map[string][]byte{"stepwright_linux_amd64": []byte("a program")}
	if err := r.addImages(files, revision); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		r.addBundles(files, stamped), r.addChart(files, stamped), r.addTemplates(files, stamped),
		writeAll(r.out, files),
	); err != nil {
		t.Fatal(err)
	}
	sum, err := writeSums(r.out)
	if err != nil {
		t.Fatal(err)
	}
	external, err := externalCI(stamped, sum)
	if err != nil {
		t.Fatal(err)
	}
	about, err := r.origin(revision)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeAll(r.out, map[string][]byte{pipelines: external, provenance: about}); err != nil {
		t.Fatal(err)
	}
	return r, stamped, sum
}

// zeros makes what is random the same each time.
type zeros struct{}

func (zeros) Int63() int64 { return 0 }
func (zeros) Seed(int64)   {}

// contents are the files of a folder, by their paths.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	files, err := entries(dir, ".", func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range files {
		all[name] = string(e.content)
	}
	return all
}

// unpacked are the files of an archive, by their names.
func unpacked(t *testing.T, raw []byte) map[string]string {
	t.Helper()
	compressed, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for archive := tar.NewReader(compressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		all[header.Name] = string(content)
	}
}

// TestRelease: a release of another version than the checkout's has that version everywhere, and is the same each time,
// in whichever folder.
func TestRelease(t *testing.T) {
	t.Parallel()
	r, _, sum := madeUp(t)
	files := contents(t, r.out)
	again, _, _ := madeUp(t)
	for name, content := range contents(t, again.out) {
		if files[name] != content {
			t.Errorf("%s differs between two releases", name)
		}
	}
	for _, name := range []string{"workflow-plane.yaml", "control-plane.yaml"} {
		if !strings.Contains(files[name], "app.kubernetes.io/version: "+next) {
			t.Errorf("%s has another version", name)
		}
	}
	if got := strings.Count(files["workflow-plane.yaml"], ":"+next+"@sha256:"); got < len(steps()) {
		t.Errorf("workflow-plane.yaml has %d images by version and digest", got)
	}
	inside := unpacked(t, []byte(files["stepwright-"+next+".tgz"]))
	if !strings.Contains(inside["stepwright/Chart.yaml"], "version: "+next+"\n") ||
		strings.Count(inside["stepwright/values.yaml"], "sha256:") < len(steps()) {
		t.Error("the chart has another version, or not the digests of the images")
	}
	templates := unpacked(t, []byte(files["templates.tar.gz"]))
	if !strings.Contains(templates["templates/workflow-plane/kustomization.yaml"], "newTag: "+next) ||
		templates["templates/overlays/example/kustomization.yaml"] == "" || templates["templates/templates.go"] != "" {
		t.Error("templates.tar.gz is not the folder of templates, or has another version")
	}
	if got := sumOf([]byte(files[sums])); got != sum || !strings.Contains(files[sums], "  stepwright_linux_amd64\n") {
		t.Errorf("%s has the checksum %s, want %s:\n%s", sums, got, sum, files[sums])
	}
	var about struct {
		Subject   []subject
		Predicate predicate
	}
	if err := json.Unmarshal([]byte(files[provenance]), &about); err != nil {
		t.Fatal(err)
	}
	wanted := strings.Count(files[sums], "\n") + 1 + len(imageNames())
	from := about.Predicate.BuildDefinition.ResolvedDependencies
	if len(about.Subject) != wanted || about.Subject[0].Digest["sha256"] != sum ||
		len(from) != 1 || from[0].Digest["gitCommit"] != strings.Repeat("c", 40) {
		t.Errorf("%s is of %d, want %d:\n%s", provenance, len(about.Subject), wanted, files[provenance])
	}
	for name, want := range map[string]string{
		"github-actions/register-workload/action.yml": "    default: " + sum + "\n",
		"gitlab/.gitlab-ci.yml":                       "releases/download/v" + next + "\n  STEPWRIGHT_SHA256: \"" + sum,
		"jenkins/Jenkinsfile":                         "'" + sum + "'",
		"jenkins/Jenkinsfile.without-docker":          "'" + sum + "'",
	} {
		if text := unpacked(t, []byte(files[pipelines]))["examples/external-ci/"+name]; !strings.Contains(text, want) {
			t.Errorf("%s lacks %q", name, want)
		}
	}
}

// TestPublish publishes to a registry on loopback and to a folder, and has helm pull the chart.
func TestPublish(t *testing.T) {
	t.Parallel()
	r, _, _ := madeUp(t)
	registry, err := devregistry.New(devregistry.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	host, err := registry.StartHandler("", registry)
	if err != nil {
		t.Fatal(err)
	}
	to := publication{from: r.out, registry: host + "/s", stderr: os.Stderr}
	if _, err := to.push(t.Context()); err == nil {
		t.Error("it spoke plain HTTP unasked")
	}
	to.plainHTTP = true
	pushed, err := to.push(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	digests, err := r.digests()
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range imageNames() {
		if want := host + "/s/" + name + ":" + next + "@" + digests[name]; pushed[i] != want {
			t.Errorf("pushed %s, want %s", pushed[i], want)
		}
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(
		t.Context(), "go", "tool", "-modfile=helm/go.mod", "helm", "pull", "oci://"+host+"/s/charts/"+chart.Name,
		"--version", next, "--plain-http", "--destination", dir,
	)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as for ci/e2e, so that Go builds it once
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	name := chart.Name + "-" + next + ".tgz"
	if diff := cmp.Diff(contents(t, r.out)[name], contents(t, dir)[name]); diff != "" {
		t.Error("helm pulled another chart than was made")
	}

	folder := t.TempDir()
	for range 2 { // what is there already may be published again
		if err := to.copyFiles(folder); err != nil {
			t.Fatal(err)
		}
	}
	published := contents(t, filepath.Join(folder, "v"+next))
	for _, name := range []string{sums, pipelines, "workflow-plane.yaml", name, "stepwright_linux_amd64"} {
		if published[name] == "" || published[name] != contents(t, r.out)[name] {
			t.Errorf("%s is not in the folder", name)
		}
	}
	if err := os.WriteFile(filepath.Join(r.out, "workflow-plane.yaml"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := to.copyFiles(folder); err == nil ||
		!strings.Contains(err.Error(), "workflow-plane.yaml is not what") {
		t.Errorf("a file that changed after its checksum: %v", err)
	}
	if _, err := writeSums(r.out); err != nil {
		t.Fatal(err)
	}
	if err := to.copyFiles(folder); err == nil || !strings.Contains(err.Error(), "has another release") {
		t.Errorf("another release of one version: %v", err)
	}
}

// TestSignedRelease publishes a release with a key. cosign and stepwright verify its images by the public key: who
// signed them, of which commit they are, and what they are made of. A second publication by the same key changes
// nothing.
func TestSignedRelease(t *testing.T) {
	t.Parallel()
	r, _, _ := madeUp(t)
	at := registrytest.New(t, registrytest.PlainHTTP, registrytest.Anonymous)
	program := filepath.Join(r.out, "publish-image_"+runtime.GOOS+"_"+runtime.GOARCH)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../../steps/publish-image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := verifiertest.PublicKey(t, key.Public())
	to := publication{
		from: r.out, registry: at.Host + "/s", plainHTTP: true, key: verifiertest.PrivateKey(t, key),
		stderr: os.Stderr,
	}
	pushed, err := to.push(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cosign := verifiertest.NewCosign(t, at)
	for i, name := range imageNames() {
		var out bytes.Buffer
		if code := cli.Main(t.Context(), []string{
			"verify", "--key", public, "--insecure-registry", at.Host, "--builder-id", builderID, "--repository",
			project, "--commit", strings.Repeat("c", 40), pushed[i],
		}, &out, &out); code != 0 || !strings.Contains(out.String(), "linux/"+runtime.GOARCH) {
			t.Errorf("exit code %d: %s", code, &out)
		}
		if said, err := cosign.Verify(t, pushed[i], cosign.ByKey(public)); err != nil {
			t.Errorf("%v: %s", err, said)
		}
		index, _, err := layouts.Index(filepath.Join(r.out, imagesDir, name))
		if err != nil {
			t.Fatal(err)
		}
		platforms, err := layouts.Images(index)
		if err != nil || len(platforms) != 1 {
			t.Fatalf("%v, %v", platforms, err)
		}
		image := at.Host + "/s/" + name + "@" + platforms[0].Digest.String()
		for _, kind := range []string{"slsaprovenance1", "spdxjson"} {
			if said, err := cosign.VerifyAttestation(t, image, kind, cosign.ByKey(public)); err != nil {
				t.Errorf("%s of %s: %v: %s", kind, name, err, said)
			}
		}
	}
	folder, folderAgain := t.TempDir(), t.TempDir()
	if err := errors.Join(to.copyFiles(folder), to.copyFiles(folderAgain)); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(folder, "v"+next)
	first, second := contents(t, files)[signed], contents(t, filepath.Join(folderAgain, "v"+next))[signed]
	if first == "" || first != second {
		t.Errorf("%s is %q, and then %q", signed, first, second)
	}
	verify := func(name string) (string, error) {
		args := append([]string{"verify-blob-attestation"}, cosign.ByKey(public)...)
		return cosign.Run(t, append(args, "--bundle", filepath.Join(files, signed), "--type", "slsaprovenance1",
			filepath.Join(files, name))...)
	}
	guide := guidetest.Blocks(
		t, "../../CONTRIBUTING.md", "These lines are run by go test ./ci/release, TestSignedRelease.",
	)
	nobody := `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`
	mine := strings.NewReplacer(
		"cosign.pub", public, "ghcr.io/stepwright/", at.Host+"/s/", ":1.2.3", ":"+next, "none.json",
		verifiertest.File(t, []byte(nobody)), "provenance.sigstore.json", filepath.Join(files, signed), "SHA256SUMS",
		filepath.Join(files, sums),
	)
	for _, line := range guidetest.Commands(guide[0]) {
		line, _, _ := strings.Cut(line, " # ")
		switch words := strings.Fields(mine.Replace(line)); words[0] {
		case "stepwright":
			var out bytes.Buffer
			args := append([]string{words[1], "--insecure-registry", at.Host}, words[2:]...)
			if code := cli.Main(t.Context(), args, &out, &out); code != 0 {
				t.Errorf("%s: exit code %d: %s", line, code, &out)
			}
		default:
			if said, err := cosign.Run(t, words[1:]...); err != nil {
				t.Errorf("%s: %v: %s", line, err, said)
			}
		}
	}
	for _, name := range []string{
		sums, "stepwright_linux_amd64", "stepwright-" + next + ".tgz", "workflow-plane.yaml",
	} {
		if said, err := verify(name); err != nil {
			t.Errorf("%s: %v: %s", name, err, said)
		}
		if err := os.WriteFile(filepath.Join(files, name), []byte("changed"), 0o644); err != nil {
			t.Fatal(err)
		}
		if said, err := verify(name); err == nil {
			t.Errorf("%s that was changed: %s", name, said)
		}
	}

	before := len(at.Requests(http.MethodPut, "/manifests/"))
	again, err := to.push(t.Context())
	if err != nil || !slices.Equal(again, pushed) {
		t.Errorf("%v, %v, want %v", again, err, pushed)
	}
	for _, put := range at.Requests(http.MethodPut, "/manifests/")[before:] {
		if strings.Contains(put.Path, "sha256") {
			t.Errorf("it signs again: %s", put.Path)
		}
	}
}

func TestChanges(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "CHANGELOG.md")
	text := "# Changelog\n\nWords.\n\n## 1.1.0\n\n- New.\n\n### To upgrade\n\n- Do.\n\n## 1.0.0\n\n- Old.\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{
		"1.1.0":      "# Stepwright 1.1.0\n\n- New.\n\n### To upgrade\n\n- Do.\n",
		"1.1.0-rc.1": "# Stepwright 1.1.0-rc.1\n\n- New.\n\n### To upgrade\n\n- Do.\n",
		"1.0.0":      "# Stepwright 1.0.0\n\n- Old.\n",
		"1.2.0":      "",
		"1.1":        "",
	} {
		got, err := changes(file, version)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, error %v", version, got, err)
		}
	}
}

// TestDebian: the packages that images are made of are found, on a machine that has some for another architecture, too.
func TestDebian(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs the Debian packages of make images")
	}
	for _, name := range append(linkedIntoRunc(runtime.GOARCH), authoritiesFrom) {
		want, _, _ := strings.Cut(name, ":")
		p, err := debian(name)
		if err != nil || p.Name != want || p.Version == "" ||
			p.Architecture != runtime.GOARCH && p.Architecture != "all" {
			t.Errorf("%s: %+v, error %v", name, p, err)
		}
	}
	if _, err := debian("no-such-package"); err == nil {
		t.Error("a package that is not there is found")
	}
}
