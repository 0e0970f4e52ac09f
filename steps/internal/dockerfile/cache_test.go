package dockerfile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// traffic counts the bytes of blobs that a registry sends and takes.
type traffic struct {
	mu       sync.Mutex
	sent     map[string]int64 // by digest
	received int64
}

func (c *traffic) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i := strings.LastIndex(r.URL.Path, "/blobs/"); i > 0 {
			switch r.Method {
			case http.MethodGet:
				w = &counted{w, func(n int) { c.add(r.URL.Path[i+len("/blobs/"):], n, 0) }}
			case http.MethodPut, http.MethodPatch:
				c.add("", 0, r.ContentLength)
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (c *traffic) add(digest string, sent int, received int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if sent > 0 {
		c.sent[digest] += int64(sent)
	}
	c.received += max(received, 0)
}

// take returns the bytes since the last time.
func (c *traffic) take() (sent, received int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.sent {
		sent += n
	}
	received = c.received
	c.sent, c.received = map[string]int64{}, 0
	return sent, received
}

type counted struct {
	http.ResponseWriter
	add func(int)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.add(n)
	return n, err
}

// component is a component whose builds have a cache in a registry.
type component struct {
	*registrytest.Registry
	traffic *traffic
	publish string // the program
	owner   step.Owner
	tag     string
	change  func(*Parameters)

	mu     sync.Mutex
	fault  func(http.ResponseWriter, *http.Request) bool
	direct http.Handler // the registry itself
	cache  *cacheMetadata
}

// answer has a function answer requests in place of the registry, where it returns true.
func (c *component) answer(fault func(http.ResponseWriter, *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fault
}

func (c *component) wrap(next http.Handler) http.Handler {
	c.direct = c.traffic.wrap(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		fault := c.fault
		c.mu.Unlock()
		if fault == nil || !fault(w, r) {
			c.direct.ServeHTTP(w, r)
		}
	})
}

// cacheOf reads the metadata of the cache that the registry had first.
func (c *component) cacheOf(t testing.TB) cacheMetadata {
	if c.cache == nil {
		config := must(must(c.Get(t, "team/cart:cache").Image()).ConfigFile())
		c.cache = &cacheMetadata{}
		if err := json.Unmarshal([]byte(config.Config.Labels[cacheMetadataLabel]), c.cache); err != nil {
			t.Fatal(err)
		}
	}
	return *c.cache
}

// rewrite changes the metadata of the cache in the registry.
func (c *component) rewrite(t testing.TB, change func(*cacheMetadata)) {
	t.Helper()
	image := must(c.Get(t, "team/cart:cache").Image())
	config := must(image.ConfigFile()).DeepCopy()
	metadata := c.cacheOf(t)
	change(&metadata)
	config.Config.Labels[cacheMetadataLabel] = string(must(json.Marshal(metadata)))
	raw := must(json.Marshal(config))
	manifest := must(image.Manifest()).DeepCopy()
	digest, size, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	manifest.Config.Digest, manifest.Config.Size = digest, size
	c.Push(t, "team/cart:cache", rewritten{image, raw, must(json.Marshal(manifest))})
}

// rewritten is an image with another configuration. Its layers are not checked.
type rewritten struct {
	v1.Image
	config, manifest []byte
}

func (r rewritten) RawConfigFile() ([]byte, error) { return r.config, nil }
func (r rewritten) ConfigFile() (*v1.ConfigFile, error) {
	return v1.ParseConfigFile(bytes.NewReader(r.config))
}
func (r rewritten) ConfigName() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(r.config))
	return hash, err
}
func (r rewritten) RawManifest() ([]byte, error) { return r.manifest, nil }
func (r rewritten) Manifest() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(r.manifest))
}
func (r rewritten) Size() (int64, error) { return int64(len(r.manifest)), nil }
func (r rewritten) Digest() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(r.manifest))
	return hash, err
}

func newComponent(t testing.TB) *component {
	c := &component{traffic: &traffic{sent: map[string]int64{}}}
	c.Registry = newRegistry(t, registrytest.Behind(c.wrap))
	c.publish = program(t, "github.com/stepwright/stepwright/steps/publish-image")
	c.owner = step.Owner{Namespace: "acme", Project: "shop", Component: "cart"}
	return c
}

// build builds in a fresh pod.
func (c *component) build(t testing.TB, files map[string]string) cycle {
	t.Helper()
	in := parameters(project(t, files), c.Registry)
	in.Owner = c.owner
	in.Registry, in.ImageName, in.Cache, in.CacheMountLimit = c.Host, "team/cart", "max", "1Gi"
	if c.change != nil {
		c.change(&in)
	}
	c.traffic.take()
	end := run(t, t.Context(), in)
	if end.err != nil {
		t.Fatalf("%v\n%s", end.err, end.output)
	}
	if left := leftovers(t, in.Workspace); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	did := cycle{in: in, results: end.results, digest: end.results["image-digest"], output: end.output}
	did.pulled, _ = c.traffic.take()
	did.workspace = size(t, in.Workspace.Image()) + size(t, in.Workspace.Cache())
	return did
}

// run is a WorkflowRun: it builds, and publishes what is built.
func (c *component) run(t testing.TB, files map[string]string) cycle {
	t.Helper()
	did := c.build(t, files)
	c.publishes(t, &did)
	return did
}

// publishes publishes what was built.
func (c *component) publishes(t testing.TB, did *cycle) {
	t.Helper()
	in := did.in
	cmd := exec.Command(
		c.publish, "--workspace="+string(in.Workspace), "--results-dir="+t.TempDir(), "--registry="+in.Registry,
		"--image-name="+in.ImageName, "--image-tag="+cmp.Or(c.tag, "v1"), "--image-digest="+did.digest,
		"--base-images="+did.results["base-images"], "--ca-bundle="+c.CAFile,
		"--registry-push-secret="+in.RegistryPullSecret, "--registry-pull-secret="+in.RegistryPullSecret,
		"--namespace-name="+in.Namespace, "--project-name="+in.Project, "--component-name="+in.Component,
		"--max-attempts=1", "--registry-mirrors=[{\"registry\":\"docker.io\",\"mirror\":\""+c.Host+"\"}]",
	)
	out, err := cmd.CombinedOutput()
	if did.published = string(out); err != nil {
		t.Fatalf("publish-image: %v\n%s\n%s", err, out, did.output)
	}
	sent, pushed := c.traffic.take()
	did.pulled, did.pushed = did.pulled+sent, pushed
}

// cycle is what a run did.
type cycle struct {
	in                Parameters
	results           step.Results
	digest            string
	output, published string // logs
	pulled, pushed    int64  // bytes of blobs
	workspace         int64  // bytes of layouts
}

// size is how many bytes the files in a folder have.
func size(t testing.TB, dir string) (bytes int64) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			bytes += must(entry.Info()).Size()
		}
		return nil
	})
	return bytes
}

// stages is a project whose image has a file of 1 MB that a stage made of the file line, after one that it made of
// nothing in the project.
func stages(line string) map[string]string {
	return map[string]string{
		"line": line,
		"Dockerfile": `FROM busybox:1 AS dependencies
RUN seq 1 300000 > /dependencies && echo ran-dependencies
FROM dependencies AS made
COPY line /line
RUN cat /line /dependencies > /made && echo ran-made
FROM busybox:1
RUN seq 1 200000 > /static && echo ran-static
COPY --from=made /made /made
`,
	}
}

// ran tells which of the instructions of stages ran.
func (c cycle) ran() (names []string) {
	for _, name := range []string{"dependencies", "made", "static"} {
		if strings.Contains(c.output, "ran-"+name+"\n") && regexp.MustCompile(`(?m)^#\d+ [\d.]+ ran-`+name+`$`).
			MatchString(c.output) {
			names = append(names, name)
		}
	}
	return names
}

// wants checks which instructions ran, and that the image is the one of a cold build.
func (c cycle) wants(t testing.TB, cold string, ran ...string) {
	t.Helper()
	if got := c.ran(); !slices.Equal(got, ran) {
		t.Errorf("%v ran, want %v\n%s", got, ran, c.output)
	}
	if cold != "" && c.digest != cold {
		t.Errorf("the image is %s, of a cold build %s\n%s", c.digest, cold, c.output)
	}
}

func (c cycle) tells(t testing.TB, words string) {
	t.Helper()
	if !strings.Contains(c.output+c.published, words) {
		t.Errorf("the log does not tell %q\n%s\n%s", words, c.output, c.published)
	}
}

// layer is the size of the layer that busybox is.
func busyboxLayer(t testing.TB) int64 {
	return must(must(must(busybox()).Layers())[0].Size())
}

// little is more than manifests and configurations have, in bytes, and less than any layer.
const little = 30_000

func TestLayerCache(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	cold := c.run(t, stages("one"))
	cold.wants(t, "", "dependencies", "made", "static")
	cold.tells(t, "There is no cache yet")

	t.Run("unchanged", func(t *testing.T) {
		again := c.run(t, stages("one"))
		again.wants(t, cold.digest)
		if again.pulled > little || again.pushed > little || again.workspace > little {
			t.Errorf("pulled %d bytes, pushed %d, workspace %d\n%s\n%s", again.pulled, again.pushed, again.workspace,
				again.output, again.published)
		}
	})
	t.Run("one line", func(t *testing.T) {
		line := c.run(t, stages("two"))
		line.wants(t, "", "made")
		// The base image, what the changed instruction builds on, and what the next one copies into.
		if most := cold.pulled + cold.pushed; line.pulled > most {
			t.Errorf("pulled %d bytes of %d", line.pulled, most)
		}
		if line.pushed > cold.pushed/2 || line.workspace > cold.workspace/2 {
			t.Errorf("pushed %d bytes, workspace %d; cold %d and %d", line.pushed, line.workspace, cold.pushed,
				cold.workspace)
		}
		fresh := newComponent(t).run(t, stages("two"))
		line.wants(t, fresh.digest, "made")
		t.Run("and back", func(t *testing.T) { c.run(t, stages("one")).wants(t, cold.digest, "made") })
	})
	t.Run("no-cache", func(t *testing.T) {
		defer func() { c.change = nil }()
		c.change = func(in *Parameters) { in.Provenance = "none" } // which tells of the parameter
		want := c.run(t, stages("one")).digest
		c.change = func(in *Parameters) { in.Provenance, in.NoCache = "none", true }
		c.run(t, stages("one")).wants(t, want, "dependencies", "made", "static")
	})
}

// Layers of a base image of an earlier stage are not pushed, and are fetched from where they are.
func TestCacheWithoutBaseImages(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	large := registrytest.RandomImage(t, 1, 3_000_000)
	large = must(mutate.AppendLayers(must(busybox()), must(large.Layers())[0]))
	c.Push(t, "library/large:1", large)
	files := map[string]string{"Dockerfile": `FROM large:1 AS first
RUN seq 1 20 > /first && echo ran-dependencies
FROM busybox:1
COPY --from=first /first /first
ARG AGAIN
RUN cat /first && echo ran-static
`}
	cold := c.run(t, files)
	cold.wants(t, "", "dependencies", "static")
	if cold.pushed > busyboxLayer(t)+little {
		t.Errorf("pushed %d bytes", cold.pushed)
	}
	again := c.run(t, files)
	again.wants(t, cold.digest)
	// From there on all is new.
	files["Dockerfile"] = strings.Replace(files["Dockerfile"], "first\nRUN", "first\nRUN cat /bin/busybox > /x &&", 1)
	c.run(t, files).wants(t, "", "dependencies")
	if n := len(c.Requests("GET", "team/cart/blobs/"+must(must(large.Layers())[1].Digest()).String())); n > 0 {
		t.Errorf("a layer of the base image was asked of the component's repository %d times", n)
	}
}

func TestCachesThatAreOfNoUse(t *testing.T) {
	t.Parallel()
	cold := newComponent(t).run(t, stages("one"))
	for _, test := range []struct {
		name  string
		spoil func(t testing.TB, c *component)
		tells string
		ran   []string
	}{
		{"of another component", func(t testing.TB, c *component) {
			c.owner.Component = "till"
			c.run(t, stages("one"))
			c.owner.Component = "cart"
		}, `its owner is \"acme/shop/till\"`, []string{"dependencies", "made", "static"}},
		{"an image", func(t testing.TB, c *component) {
			c.Push(t, "team/cart:cache", registrytest.RandomImage(t, 2, 1000))
		}, "Building without the cache", []string{"dependencies", "made", "static"}},
		{"of another version", func(t testing.TB, c *component) {
			c.rewrite(t, func(m *cacheMetadata) { m.Format = "0" })
		}, "another version", []string{"dependencies", "made", "static"}},
		{"layers that are not listed", func(t testing.TB, c *component) {
			c.rewrite(t, func(m *cacheMetadata) { m.Layers[0].From, m.Layers[0].Size = "", 7 })
		}, "does not list", []string{"dependencies", "made", "static"}},
		{"no metadata", func(t testing.TB, c *component) {
			c.rewrite(t, func(m *cacheMetadata) { *m = cacheMetadata{} })
		}, "Building without the cache", []string{"dependencies", "made", "static"}},
		{"a manifest that is garbage", func(t testing.TB, c *component) {
			c.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, "/manifests/cache") {
					return false
				}
				w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
				w.Write([]byte("{"))
				return true
			})
		}, "Building without the cache", []string{"dependencies", "made", "static"}},
		{"a registry that does not want to", func(t testing.TB, c *component) {
			c.answer(func(w http.ResponseWriter, r *http.Request) bool {
				denied := r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/cache")
				if denied {
					w.WriteHeader(http.StatusForbidden)
				}
				return denied
			})
		}, "Building without the cache", []string{"dependencies", "made", "static"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newComponent(t)
			c.run(t, stages("one"))
			test.spoil(t, c)
			spoilt := c.run(t, stages("one"))
			spoilt.wants(t, cold.digest, test.ran...)
			spoilt.tells(t, test.tells)
			c.answer(nil)
			c.run(t, stages("one")).wants(t, cold.digest)
		})
	}
}

// Blobs of a cache may be lost or damaged without a sign of it in the manifest.
func TestDamagedLayersOfACache(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
		"gone": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusNotFound) },
		"gone, and shown": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		},
		"truncated": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			whole := httptest.NewRecorder()
			next.ServeHTTP(whole, r)
			w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
		},
		"garbage": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodHead {
				next.ServeHTTP(w, r)
				return
			}
			whole := httptest.NewRecorder()
			next.ServeHTTP(whole, r)
			w.Write(bytes.Repeat([]byte("x"), whole.Body.Len()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := newComponent(t).run(t, stages("two"))
			c := newComponent(t)
			c.run(t, stages("one"))
			layers := c.cacheOf(t).Layers
			c.answer(func(w http.ResponseWriter, r *http.Request) bool {
				hit := strings.Contains(r.URL.Path, "/team/cart/blobs/sha256:") &&
					(r.Method == http.MethodGet || r.Method == http.MethodHead) &&
					slices.ContainsFunc(layers, func(l cacheLayer) bool {
						return l.Size > 1000 && strings.HasSuffix(r.URL.Path, l.Digest.String())
					})
				if hit {
					damage(w, r, c.direct)
				}
				return hit
			})
			spoilt := c.build(t, stages("two"))
			spoilt.wants(t, want.digest, "dependencies", "made", "static")
			spoilt.tells(t, "Building again without the cache")
		})
	}
}

func TestCacheModes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		mode string
		ran  []string
		own  int // layers in the cache
	}{
		{"max", []string{"made"}, 6},
		{"min", []string{"dependencies", "made"}, 3},
		{"disabled", []string{"dependencies", "made", "static"}, 0},
	} {
		t.Run(test.mode, func(t *testing.T) {
			t.Parallel()
			c := newComponent(t)
			c.change = func(in *Parameters) { in.Cache = test.mode }
			c.run(t, stages("one"))
			if test.mode == cacheDisabled {
				if c.Has(t, "team/cart:cache") || len(c.Requests("GET", "/manifests/cache")) > 1 {
					t.Error("there is a cache, or it was asked for")
				}
			} else {
				own := 0
				for _, layer := range c.cacheOf(t).Layers {
					if layer.From == "" {
						own++
					}
				}
				if own != test.own {
					t.Errorf("%d layers, want %d", own, test.own)
				}
			}
			c.run(t, stages("two")).wants(t, "", test.ran...)
		})
	}
}

// The registry's tags are immutable: the first cache stays, which is told once.
func TestCacheUnderImmutableTags(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.run(t, stages("one"))
	c.answer(func(w http.ResponseWriter, r *http.Request) bool {
		fixed := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/cache")
		if fixed {
			w.WriteHeader(http.StatusPreconditionFailed)
		}
		return fixed
	})
	c.tag = "v2"
	second := c.run(t, stages("two"))
	second.wants(t, "", "made")
	second.tells(t, "cache is not pushed")
	c.tag = "v3"
	third := c.run(t, stages("two"))
	third.wants(t, second.digest, "made")
	third.tells(t, "immutable")
}

// A daemon that knows nothing takes the cache that another one's build left.
func TestCacheOfDaemons(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.useDaemon(t)
	cold := c.run(t, stages("one"))
	cold.wants(t, "", "dependencies", "made", "static")
	c.useDaemon(t)
	again := c.run(t, stages("one"))
	again.wants(t, cold.digest)
	if again.pushed > little {
		t.Errorf("pushed %d bytes", again.pushed)
	}
	c.useDaemon(t)
	c.run(t, stages("two")).wants(t, "", "made")
	t.Run("of the step's own builder", func(t *testing.T) {
		c.change = nil
		mixed := c.run(t, stages("one"))
		mixed.wants(t, newComponent(t).run(t, stages("one")).digest, "dependencies", "made", "static")
		mixed.tells(t, "another version")
	})
}

// useDaemon has the component's builds go to a daemon that knows nothing.
func (c *component) useDaemon(t testing.TB) {
	t.Helper()
	address := "unix://" + filepath.Join(t.TempDir(), "sock")
	newDaemon(t, c.Registry, "", "--addr", address)
	c.change = func(in *Parameters) { in.BuildKitAddress = address }
}

// A daemon that has built before sends only what is new, and no layer is in the registry twice: as the daemon has it,
// and as the image has it.
func TestDaemonSendsWhatIsNew(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.useDaemon(t)
	cold := c.run(t, stages("one"))
	image := map[v1.Hash]bool{}
	for _, layer := range must(must(c.Get(t, "team/cart:v1").Image()).Manifest()).Layers {
		image[layer.Digest] = true
	}
	metadata := c.cacheOf(t)
	if len(metadata.Dated) != len(image) {
		t.Errorf("the cache has %d of the image's %d layers", len(metadata.Dated), len(image))
	}
	changed := 0
	for _, layer := range metadata.Dated {
		if !image[hash(layer.Digest)] {
			t.Errorf("the image does not have %s", layer.Digest)
		}
		if layer.Was == layer.Digest {
			continue
		}
		changed++
		for _, kept := range metadata.Layers {
			if kept.Digest == layer.Was {
				t.Errorf("the cache has %s, which is %s in the image", layer.Was, layer.Digest)
			}
		}
	}
	if changed != 2 {
		t.Errorf("%d layers became others", changed)
	}
	unchanged := func(t *testing.T) {
		again := c.run(t, stages("one"))
		again.wants(t, cold.digest)
		if again.pulled > little || again.pushed > little || again.workspace > little {
			t.Errorf("pulled %d bytes, pushed %d, workspace %d\n%s\n%s", again.pulled, again.pushed, again.workspace,
				again.output, again.published)
		}
	}
	t.Run("unchanged", unchanged)
	t.Run("and once more", unchanged)
	t.Run("one line", func(t *testing.T) {
		line := c.run(t, stages("two"))
		fresh := newComponent(t)
		fresh.useDaemon(t)
		line.wants(t, fresh.run(t, stages("two")).digest, "made")
		if line.pulled > little || line.pushed > cold.pushed/2 || line.workspace > cold.workspace/2 {
			t.Errorf("pulled %d bytes, pushed %d, workspace %d; cold %d and %d", line.pulled, line.pushed,
				line.workspace, cold.pushed, cold.workspace)
		}
	})
	t.Run("a layer is lost", func(t *testing.T) {
		c.run(t, stages("one"))
		lost := metadata.Dated[len(metadata.Dated)-1].Digest.String()
		var sent atomic.Bool
		c.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/blobs/"+lost) && !sent.Load() {
				w.WriteHeader(http.StatusNotFound)
				return true
			}
			if r.URL.Query().Get("digest") == lost {
				sent.Store(true)
			}
			return false
		})
		defer c.answer(nil)
		c.tag = "v2"
		c.run(t, stages("one")).wants(t, cold.digest)
		if !sent.Load() {
			t.Error("it was not pushed again")
		}
	})
	t.Run("a cache that names another layer", func(t *testing.T) {
		c.answer(nil)
		c.cache = nil
		c.rewrite(t, func(m *cacheMetadata) { m.Dated[0].Digest = digest.FromString("x") })
		spoilt := c.run(t, stages("one"))
		spoilt.wants(t, cold.digest)
		spoilt.tells(t, "it does not have layer")
	})
}

// A layer that a daemon has kept is the one that a daemon without it makes, though its files are older than the commit.
func TestDaemonKeepsTimes(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	at := func(c *component, commit time.Time) {
		change := c.change
		c.change = func(in *Parameters) {
			change(in)
			in.SourceDateEpoch = commit.Unix()
		}
	}
	c.useDaemon(t)
	at(c, commitTime)
	c.run(t, stages("one"))
	later := time.Now().Truncate(time.Second).Add(time.Second)
	await(t, func() bool { return time.Now().After(later.Add(time.Second)) })
	at(c, later)
	warm := c.run(t, stages("two"))
	fresh := newComponent(t)
	fresh.useDaemon(t)
	at(fresh, later)
	warm.wants(t, fresh.run(t, stages("two")).digest, "made")
}

// A daemon has the context of a source that it has built, and of no other one.
func TestContextOfDaemon(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.useDaemon(t)
	change := c.change
	c.change = func(in *Parameters) {
		change(in)
		*in = chained(t, *in)
	}
	files := func(content string) map[string]string {
		return map[string]string{
			"Dockerfile": "FROM busybox:1\nCOPY large /large\n", "large": strings.Repeat(content, 1_000_000),
		}
	}
	sent := regexp.MustCompile(`transferring context: [\d.]+MB`)
	for _, test := range []struct {
		content string
		sent    bool
	}{{"a", true}, {"a", false}, {"b", true}, {"a", false}} {
		did := c.run(t, files(test.content))
		if got := sent.MatchString(did.output); got != test.sent {
			t.Errorf("%s: sent %t\n%s", test.content, got, did.output)
		}
	}
	if c.run(t, files("a")).digest == c.run(t, files("b")).digest {
		t.Error("one image of two sources")
	}
}

// What builds of a component keep in the registry is of no use to other components' Dockerfiles as an image: to a
// builder, it has no files.
func TestCachesAsImages(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	files := stages("one")
	files["Dockerfile"] += "RUN --mount=type=cache,target=/kept echo secret > /kept/page\n"
	c.run(t, files)
	if !c.Has(t, "team/cart:cache") || !c.Has(t, "team/cart:cache-mounts") {
		t.Fatal("nothing is kept")
	}
	c.owner.Component = "till"
	image := c.Host + "/team/cart"
	c.build(t, map[string]string{"Dockerfile": "FROM " + image + ":cache AS cache\n" +
		"FROM busybox:1\nCOPY --from=cache / /cache/\nCOPY --from=" + image + ":cache-mounts / /mounts/\n" +
		"RUN --mount=type=cache,target=/kept,from=" + image + ":cache-mounts " +
		"found=$(find /cache /mounts /kept -type f) && test -z \"$found\"\n"})
}
