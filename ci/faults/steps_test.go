package faults

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/outcome"
)

// A step is a step of the pipeline, as the matrix sees it.
type step struct {
	name    string
	user    int                 // who runs it; 0: root
	root    bool                // it runs in a builder's root file system
	peer    func(*site) *server // whom it talks to most
	away    outcome.Reason      // says that the peer is not to be had
	refused outcome.Reason      // says that the peer does not take the secret
	absent  outcome.Reason      // says that the peer's host has no name
	strange outcome.Reason      // says that what answers is no such server

	from    func(*works) string // the workspace that it finds; empty: one with nothing in it
	prepare func(*scene)        // makes what else it finds; may be nil
	args    func(*scene) []string

	whole    func(*scene, ending) error // nil where a step that succeeded left what it should
	harmless func(*scene) error         // nil where nothing that a step left can be taken for what it should leave
}

// The steps in the order in which they run.
var steps = []*step{checkout, containerfile, buildpacks, publish, workload}

var common = []string{
	"--workspace=/mnt/vol", "--results-dir=/tmp/results", "--termination-message-path=/mnt/message",
	"--ca-bundle=/mnt/ca.pem", "--max-attempts=3",
}

// owner are the flags that tell whose image it is.
var owner = []string{"--namespace-name=acme", "--project-name=shops", "--component-name=shop"}

func flags(groups ...[]string) (all []string) {
	for _, group := range groups {
		all = append(all, group...)
	}
	return all
}

var checkout = &step{
	name:    "checkout-source",
	peer:    func(s *site) *server { return s.git },
	away:    outcome.GitServerUnavailable,
	refused: outcome.AuthenticationFailed,
	absent:  outcome.RepositoryNotFound,
	strange: outcome.RepositoryNotFound,
	from:    func(*works) string { return "" },
	args: func(*scene) []string {
		return flags(common, []string{
			"--git-repo=" + repositoryOf, "--branch=main", "--git-secret-dir=/mnt/secrets/git",
			"--git-secret-hosts=" + gitHost, "--git-timeout=10",
		})
	},
	whole: func(c *scene, e ending) error {
		truth := c.works.truth["checkout-source"]
		if truth == nil {
			return nil
		}
		for _, result := range []string{"git-revision", "source-digest"} {
			if e.results[result] != truth.results[result] {
				return fmt.Errorf("%s is %q, not %q", result, e.results[result], truth.results[result])
			}
		}
		return sameTree(c.vol(), truth.vol)
	},
	harmless: func(c *scene) error {
		if _, err := os.Stat(filepath.Join(c.vol(), "revision.json")); err != nil {
			return nil // without which no source is one
		}
		return sameTree(c.vol(), c.works.truth["checkout-source"].vol)
	},
}

// chained are the flags by which a step learns of the source.
func chained(c *scene) []string {
	results := c.works.truth["checkout-source"].results
	return []string{"--source-digest=" + results["source-digest"], "--revision=" + results["revision"]}
}

var registryFlags = []string{
	"--registry=" + registryHost, "--image-name=acme/shop",
	"--registry-pull-secret=/mnt/secrets/registry/.dockerconfigjson",
	`--registry-mirrors=[{"registry":"docker.io","mirror":"` + registryHost + `"}]`,
}

func afterCheckout(w *works) string { return w.truth["checkout-source"].vol }

var containerfile = &step{
	name:    "containerfile-build",
	peer:    func(s *site) *server { return s.registry },
	away:    outcome.RegistryUnavailable,
	refused: outcome.BaseImageUnavailable,
	absent:  outcome.RegistryUnavailable,
	strange: outcome.RegistryUnavailable,
	from:    afterCheckout,
	args: func(c *scene) []string {
		return flags(common, owner, registryFlags, chained(c), []string{"--buildkit-root=/mnt/state/buildkit"})
	},
	whole:    func(c *scene, e ending) error { return builtWhole(c, e, "containerfile-build") },
	harmless: imageWholeOrNone,
}

var buildpacks = &step{
	name: "buildpacks-build", user: 1001, root: true,
	peer:    func(s *site) *server { return s.registry },
	away:    outcome.RegistryUnavailable,
	refused: outcome.BaseImageUnavailable,
	absent:  outcome.RegistryUnavailable,
	strange: outcome.RegistryUnavailable,
	from:    afterCheckout,
	args: func(c *scene) []string {
		return flags([]string{"all"}, common, owner, registryFlags, chained(c), []string{
			"--run-image=" + registryHost + "/acme/run:1", "--builder-image=" + registryHost + "/acme/builder:1",
		})
	},
	whole:    func(c *scene, e ending) error { return builtWhole(c, e, "buildpacks-build") },
	harmless: imageWholeOrNone,
}

var publish = &step{
	name:    "publish-image",
	peer:    func(s *site) *server { return s.registry },
	away:    outcome.RegistryUnavailable,
	refused: outcome.PushDenied,
	absent:  outcome.InvalidParameters,
	strange: outcome.RegistryUnavailable,
	from:    func(w *works) string { return w.truth["containerfile-build"].vol },
	args: func(c *scene) []string {
		built, source := c.works.truth["containerfile-build"].results, c.works.truth["checkout-source"].results
		return flags(common, owner, registryFlags, []string{
			"--registry-push-secret=/mnt/secrets/registry/.dockerconfigjson", "--cache-source=/mnt/vol/cache",
			"--git-revision=" + source["git-revision"], "--image-digest=" + built["image-digest"],
			"--base-images=" + built["base-images"],
		})
	},
	whole: func(c *scene, e ending) error {
		want := c.works.truth["containerfile-build"].results["image-digest"]
		if !strings.HasSuffix(e.results["image"], "@"+want) {
			return fmt.Errorf("result image is %q, not of %s", e.results["image"], want)
		}
		tags, err := c.tags("acme/shop")
		if err != nil {
			return err
		}
		reference, _, _ := strings.Cut(e.results["image"], "@")
		tag := reference[strings.LastIndexByte(reference, ':')+1:]
		if tags[tag] != want {
			return fmt.Errorf("tag %q is %q, not %s: %v", tag, tags[tag], want, tags)
		}
		delete(tags, tag)
		delete(tags, "cache") // which the next build can do without
		if len(tags) > 0 {
			return fmt.Errorf("there are other tags, too: %v", tags)
		}
		return nil
	},
	harmless: func(c *scene) error {
		_, err := c.tags("acme/shop")
		return err
	},
}

const (
	olderRun = "shop-1"
	newerRun = "shop-2"
)

var workload = &step{
	name:    "generate-workload-cr",
	peer:    func(s *site) *server { return s.api },
	away:    outcome.ApiUnavailable,
	refused: outcome.Unauthorized,
	absent:  outcome.ApiUnavailable,
	strange: outcome.NotFound,
	from:    afterCheckout,
	prepare: func(c *scene) {
		if found, err := c.objects.Load().Component("acme", "shop"); err == nil && found != nil {
			return
		}
		if err := c.objects.Load().Apply([]byte(objects)); err != nil {
			c.t.Fatal(err)
		}
	},
	args: func(c *scene) []string {
		return flags(common, owner, chained(c), []string{
			"--image=" + imageOf(olderRun), "--run-name=" + olderRun, "--api-server-url=https://" + apiHost,
			"--oauth-token-url=https://" + idpHost + devapi.TokenPath, "--oauth-client-id=" + user,
			"--oauth-client-secret-file=/mnt/secrets/api/client-secret",
		})
	},
	whole: func(c *scene, _ ending) error {
		run, err := c.objects.Load().WorkflowRun("acme", olderRun)
		if err != nil {
			return err
		}
		if run.Annotations["openchoreo.dev/workload"] == "" {
			return fmt.Errorf("the WorkflowRun tells no Workload: %v", run.Annotations)
		}
		return c.workloadIs(olderRun)
	},
	harmless: func(c *scene) error {
		all, err := c.objects.Load().WorkloadsOf("acme", "shop")
		if err != nil || len(all) == 0 {
			return err
		}
		return c.workloadIs(olderRun)
	},
}

// imageOf is the image of a run.
func imageOf(run string) string {
	return fmt.Sprintf("%s/acme/shop@sha256:%x", registryHost, sha256.Sum256([]byte(run)))
}

const objects = `
apiVersion: openchoreo.dev/v1alpha1
kind: Component
metadata: {name: shop, namespace: acme}
spec:
  owner: {projectName: shops}
  componentType: {kind: ClusterComponentType, name: deployment/service}
---
apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: shop-1
  namespace: acme
  creationTimestamp: "2026-03-04T05:00:00Z"
  labels: {openchoreo.dev/project: shops, openchoreo.dev/component: shop}
spec:
  workflow: {kind: ClusterWorkflow, name: dockerfile-builder}
---
apiVersion: openchoreo.dev/v1alpha1
kind: WorkflowRun
metadata:
  name: shop-2
  namespace: acme
  creationTimestamp: "2026-03-04T06:00:00Z"
  labels: {openchoreo.dev/project: shops, openchoreo.dev/component: shop}
spec:
  workflow: {kind: ClusterWorkflow, name: dockerfile-builder}
`

// workloadIs is nil where the component's one Workload is of a run.
func (c *scene) workloadIs(run string) error {
	all, err := c.objects.Load().WorkloadsOf("acme", "shop")
	if err != nil {
		return err
	}
	if len(all) != 1 || all[0].Spec.Container.Image != imageOf(run) || len(all[0].Spec.Endpoints) != 1 {
		return fmt.Errorf("the Workload is not of %s: %+v", run, all)
	}
	return nil
}

// builtWhole is nil where the image in the workspace is the one of an undisturbed build.
func builtWhole(c *scene, e ending, step string) error {
	digest, err := c.image()
	if err != nil {
		return err
	}
	if digest != e.results["image-digest"] {
		return fmt.Errorf("the image is %q, the result %q", digest, e.results["image-digest"])
	}
	if truth := c.works.truth[step]; truth != nil && digest != truth.results["image-digest"] {
		return fmt.Errorf("the image is %q, not %q", digest, truth.results["image-digest"])
	}
	return nil
}

// imageWholeOrNone is nil where the workspace has no image, or the one that an undisturbed build makes.
func imageWholeOrNone(c *scene) error {
	digest, err := c.image()
	if err != nil || digest == "" {
		return err
	}
	if want := c.works.truth[c.step.name].results["image-digest"]; digest != want {
		return fmt.Errorf("the workspace has the image %s, not %s", digest, want)
	}
	return nil
}

// image is the digest of the image in the workspace, whose blobs are what their names say; empty: there is none.
func (c *scene) image() (string, error) {
	dir := filepath.Join(c.vol(), "image")
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if os.IsNotExist(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil || len(index.Manifests) != 1 {
		return "", fmt.Errorf("index.json of the image is %q: %v", raw, err)
	}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		return "", err
	}
	for _, blob := range blobs {
		raw, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", blob.Name()))
		if err != nil || fmt.Sprintf("%x", sha256.Sum256(raw)) != blob.Name() {
			return "", fmt.Errorf("blob %s is not what its name says: %v", blob.Name(), err)
		}
	}
	if _, err := layout.ImageIndexFromPath(dir); err != nil {
		return "", err
	}
	return index.Manifests[0].Digest.String(), nil
}

// tags are the digests of a repository's tags. The error tells of one behind which something is missing.
func (c *scene) tags(repository string) (map[string]string, error) {
	repo, err := name.NewRepository(registryHost + "/" + repository)
	if err != nil {
		return nil, err
	}
	ask := remote.WithTransport(direct{c.images})
	all := map[string]string{}
	list, err := remote.List(repo, ask)
	if err != nil {
		return all, nil // nothing was ever put there
	}
	for _, tag := range list {
		found, err := remote.Get(repo.Tag(tag), ask)
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", tag, err)
		}
		all[tag] = found.Digest.String()
		if err := complete(repo, found, ask); err != nil {
			return nil, fmt.Errorf("tag %s is of an image that is not complete: %w", tag, err)
		}
	}
	return all, nil
}

// complete is nil where all is there that an image, or each of an index, needs.
func complete(repo name.Repository, found *remote.Descriptor, ask remote.Option) error {
	if !found.MediaType.IsIndex() {
		image, err := found.Image()
		if err != nil {
			return err
		}
		return blobs(image)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(found.Manifest, &index); err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			layer, err := remote.Layer(repo.Digest(d.Digest.String()), ask)
			if err == nil {
				err = validate.Layer(layer, validate.Fast)
			}
			if err != nil {
				return err
			}
			continue
		}
		below, err := remote.Get(repo.Digest(d.Digest.String()), ask)
		if err == nil {
			err = complete(repo, below, ask)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blobs is nil where all blobs of an image can be had.
func blobs(image v1.Image) error {
	if _, err := image.RawConfigFile(); err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		content, err := layer.Compressed() // verified by its digest as it is read
		if err != nil {
			return err
		}
		sum := sha256.New()
		if _, err := copyAll(sum, content); err != nil {
			return err
		}
		if digest, err := layer.Digest(); err != nil || fmt.Sprintf("%x", sum.Sum(nil)) != digest.Hex {
			return fmt.Errorf("a layer is not %s: %v", digest, err)
		}
	}
	return nil
}

// sameTree is nil where two workspaces have the same source.
func sameTree(one, other string) error {
	a, err := treeOf(filepath.Join(one, "source"))
	if err != nil {
		return err
	}
	b, err := treeOf(filepath.Join(other, "source"))
	if err == nil && a != b {
		err = fmt.Errorf("the source in %s is not the one in %s", one, other)
	}
	return err
}

func treeOf(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil || below == ".git" && entry.IsDir() {
			return fs.SkipDir
		}
		fmt.Fprintln(sum, below, entry.Type())
		if entry.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			fmt.Fprintf(sum, "%x\n", sha256.Sum256(raw))
			return err
		}
		return nil
	})
	return fmt.Sprintf("%x", sum.Sum(nil)), err
}

func copyAll(to io.Writer, from io.ReadCloser) (int64, error) {
	defer from.Close()
	return io.Copy(to, from)
}
