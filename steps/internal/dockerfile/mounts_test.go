package dockerfile

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/steps/internal/cachemount"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// mounting is a project with one RUN for each of these lines, before which the file line is copied. The script of each
// has a mount, which is named before a colon.
func mounting(line string, runs ...string) map[string]string {
	text := "FROM busybox:1\nCOPY line /line\n"
	for _, run := range runs {
		mount, script, _ := strings.Cut(run, ": ")
		text += "RUN --mount=type=cache," + mount + " " + script + "\n"
	}
	return map[string]string{"line": line, "Dockerfile": text}
}

// said returns what the build's instructions printed after "said ".
func (c cycle) said() (words []string) {
	for _, found := range regexp.MustCompile(`(?m)^#\d+ [\d.]+ said ?(.*)$`).FindAllStringSubmatch(c.output, -1) {
		words = append(words, found[1])
	}
	return words
}

func (c cycle) says(t testing.TB, want ...string) {
	t.Helper()
	if got := c.said(); !slices.Equal(got, want) {
		t.Errorf("the build said %q, want %q\n%s\n%s", got, want, c.output, c.published)
	}
}

// noise is a script that writes a file of as many bytes, which cannot be compressed.
func noise(file string, megabytes int) string {
	return fmt.Sprintf("/bin/busybox dd if=/dev/urandom of=%s bs=1048576 count=%d 2>/dev/null", file, megabytes)
}

// stateful is a project whose RUN prints what its mount has of the last one, and leaves the file line there, beside
// 3 MB.
func stateful(line string) map[string]string {
	return mounting(line, "target=/m: echo said $(test -e /m/state && cat /m/state); "+
		"test -e /m/big || "+noise("/m/big", 3)+"; cat /line > /m/state")
}

func TestCacheMounts(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	cold := c.run(t, stateful("one"))
	cold.says(t, "")
	cold.tells(t, "There are no cache mounts yet")
	if cold.pushed < 3<<20 {
		t.Errorf("pushed %d bytes\n%s\n%s", cold.pushed, cold.output, cold.published)
	}
	t.Run("unchanged", func(t *testing.T) {
		again := c.run(t, stateful("one"))
		again.says(t)
		if again.digest != cold.digest || again.pulled > little || again.pushed > 0 || again.workspace > little {
			t.Errorf("pulled %d bytes, pushed %d, workspace %d\n%s\n%s", again.pulled, again.pushed, again.workspace,
				again.output, again.published)
		}
	})
	t.Run("one line", func(t *testing.T) {
		second := c.run(t, stateful("two"))
		second.says(t, "one")
		if second.pulled < 3<<20 || second.pushed > little {
			t.Errorf("pulled %d bytes, pushed %d\n%s\n%s", second.pulled, second.pushed, second.output,
				second.published)
		}
		if fresh := newComponent(t).run(t, stateful("two")); fresh.digest != second.digest {
			t.Errorf("the image is %s, of a cold build %s", second.digest, fresh.digest)
		}
	})
	t.Run("a build that fails", func(t *testing.T) {
		files := stateful("three")
		files["Dockerfile"] += "RUN false\n"
		in := parameters(project(t, files), c.Registry)
		in.Owner, in.Registry, in.ImageName, in.CacheMountLimit = c.owner, c.Host, "team/cart", "1Gi"
		if end := run(t, t.Context(), in); end.err == nil || !strings.Contains(end.output, "said two") {
			t.Errorf("%v\n%s", end.err, end.output)
		}
		if _, err := os.Stat(in.Workspace.CacheMounts()); err == nil {
			t.Error("it left mounts")
		}
		c.run(t, stateful("four")).says(t, "two")
	})
	t.Run("no-cache", func(t *testing.T) {
		defer func() { c.change = nil }()
		c.change = func(in *Parameters) { in.NoCache = true }
		c.run(t, stateful("five")).says(t, "")
		c.change = nil
		c.run(t, stateful("six")).says(t, "five")
	})
	t.Run("of no limit", func(t *testing.T) {
		defer func() { c.change = nil }()
		c.change = func(in *Parameters) { in.CacheMountLimit = "0" }
		c.run(t, stateful("seven")).says(t, "")
		c.change = nil
		c.run(t, stateful("eight")).says(t, "six")
	})
}

// Mounts mean in a fresh pod what they mean in a builder that stays.
func TestKindsOfCacheMounts(t *testing.T) {
	t.Parallel()
	runs := []string{
		"target=/a,id=one: echo said id $(ls /a); touch /a/of-one",
		"target=/b,id=one: echo said same id $(ls /b)",
		"target=/a,id=two: echo said other id $(ls /a); touch /a/of-two",
		"target=/m,uid=1000,gid=1001,mode=0750: echo said owner $(stat -c %u:%g:%a /m) $(ls /m); touch /m/f",
		"target=/l,sharing=locked: echo said locked $(ls /l); touch /l/f; chown 7:8 /l/f",
		"target=/l,sharing=locked: echo said ids $(stat -c %u:%g /l/f)",
		"target=/p,sharing=private: echo said private $(ls /p); touch /p/f",
		"target=/f,from=seed,source=/seed: echo said from $(ls /f); /bin/busybox rm -f /f/gone; touch /f/new",
		"target=/a,id=one,ro: echo said ro $(ls /a)",
	}
	files := func(line, seed string) map[string]string {
		all := mounting(line, runs...)
		all["Dockerfile"] = "FROM busybox:1 AS seed\n" +
			"RUN mkdir /seed && touch /seed/base /seed/gone /seed/" + seed + "\n" + all["Dockerfile"]
		return all
	}
	c := newComponent(t)
	cold := c.run(t, files("one", "x"))
	cold.says(t, "id", "same id of-one", "other id", "owner 1000:1001:750", "locked", "ids 7:8", "private",
		"from base gone x", "ro of-one")
	warm := c.run(t, files("two", "x"))
	warm.says(t, "id of-one", "same id of-one", "other id of-two", "owner 1000:1001:750 f", "locked f", "ids 7:8",
		"private f", "from base new x", "ro of-one")
	t.Run("another base", func(t *testing.T) {
		c.run(t, files("three", "y")).says(t, "id of-one", "same id of-one", "other id of-two",
			"owner 1000:1001:750 f", "locked f", "ids 7:8", "private f", "from base gone y", "ro of-one")
	})
}

// Two RUNs at the same time have two mounts of sharing=private, and so they have in the next build.
func TestPrivateCacheMounts(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	files := func(line string) map[string]string {
		stage := "FROM busybox:1 AS %s\nCOPY line /line\nRUN --mount=type=cache,target=/m,sharing=private " +
			"echo said $(ls /m); touch /m/of-%[1]s; sleep 3; touch /%[1]s\n"
		return map[string]string{"line": line, "Dockerfile": fmt.Sprintf(stage, "x") + fmt.Sprintf(stage, "y") +
			"FROM busybox:1\nCOPY --from=x /x /x\nCOPY --from=y /y /y\n"}
	}
	c.run(t, files("one")).says(t, "", "")
	said := c.run(t, files("two")).said()
	slices.Sort(said)
	if !slices.Equal(said, []string{"of-x", "of-y"}) {
		t.Errorf("mounts hold %q", said)
	}
}

func TestCacheMountLimit(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.change = func(in *Parameters) { in.CacheMountLimit = "3Mi" }
	of := func(name string, megabytes int) map[string]string {
		return mounting(name, "target=/m,id="+name+": echo said $(ls /m); "+noise("/m/of-"+name, megabytes))
	}
	c.run(t, of("a", 1)).says(t, "")
	c.run(t, of("b", 1)).says(t, "")
	a := of("a", 1)
	a["line"] = "again" // now b is the one that was not used for longest
	c.run(t, a).says(t, "of-a")
	out := c.run(t, of("c", 1))
	out.says(t, "")
	out.tells(t, `cache mount "b" of 1.0 MB is no longer kept`)
	b := of("b", 1)
	b["line"] = "again"
	c.build(t, b).says(t, "")
	a["line"] = "once more"
	c.build(t, a).says(t, "of-a")
	large := c.run(t, of("large", 4))
	large.tells(t, "no place within cache-mount-limit")
	if large.pushed > 3<<20 {
		t.Errorf("pushed %d bytes", large.pushed)
	}
	a["line"] = "at last"
	c.build(t, a).says(t, "of-a")
}

// artifact is an image with what a build could have left of its mounts.
func artifact(owner, format, index string, blobs ...[]byte) v1.Image {
	image := must(mutate.AppendLayers(empty.Image, static.NewLayer([]byte(index), mountsIndexType)))
	for _, blob := range blobs {
		image = must(mutate.AppendLayers(image, static.NewLayer(blob, mountsBlobType)))
	}
	config := must(image.ConfigFile()).DeepCopy()
	config.OS, config.Architecture = cacheOS, cacheArchitecture
	config.Config.Labels = map[string]string{step.OwnerLabel: owner, mountsFormatLabel: format}
	return must(mutate.ConfigFile(image, config))
}

func packed(text string) ([]byte, cachemount.Blob) {
	raw := must(zstd.NewWriter(nil)).EncodeAll([]byte(text), nil)
	return raw, cachemount.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw)), Plain: int64(len(text))}
}

// What other builds, other versions and strangers left in the registry costs nothing but time.
func TestMountsThatAreOfNoUse(t *testing.T) {
	t.Parallel()
	const owner = "acme/shop/cart"
	cold := newComponent(t).run(t, stateful("two"))
	hostile := func(list string, files int) v1.Image {
		listRaw, listBlob := packed(list)
		chunkRaw, chunkBlob := packed("evil")
		index := must(json.Marshal(cachemount.Index{Format: cachemount.Format, Mounts: []cachemount.Mount{{
			Key: cachemount.Key{ID: "/m"}, List: listBlob, Chunks: []cachemount.Blob{chunkBlob}, Files: files,
		}}}))
		return artifact(owner, cachemount.Format, string(index), listRaw, chunkRaw)
	}
	damaged := func(damage func(w http.ResponseWriter, whole []byte)) func(*testing.T, *component) {
		return func(t *testing.T, c *component) {
			c.run(t, stateful("one"))
			var index cachemount.Index
			image := must(c.Get(t, "team/cart:cache-mounts").Image())
			top := must(must(image.Layers())[0].Compressed())
			if err := json.NewDecoder(top).Decode(&index); err != nil {
				t.Fatal(err)
			}
			top.Close()
			chunk := index.Mounts[0].Chunks[0].Digest.String()
			c.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, chunk) {
					return false
				}
				whole := httptest.NewRecorder()
				c.direct.ServeHTTP(whole, r)
				damage(w, whole.Body.Bytes())
				return true
			})
		}
	}
	pushes := func(image v1.Image) func(*testing.T, *component) {
		return func(t *testing.T, c *component) { c.Push(t, "team/cart:cache-mounts", image) }
	}
	for name, test := range map[string]struct {
		spoil func(*testing.T, *component)
		tells string
	}{
		"of another component": {func(t *testing.T, c *component) {
			c.owner.Component = "till"
			c.run(t, stateful("one"))
			c.owner.Component = "cart"
		}, `its owner is \"acme/shop/till\"`},
		"of another namespace": {func(t *testing.T, c *component) {
			c.owner.Namespace = "other"
			c.run(t, stateful("one"))
			c.owner.Namespace = "acme"
		}, `its owner is \"other/shop/cart\"`},
		"an image":           {pushes(registrytest.RandomImage(t, 2, 1000)), "Building with empty cache mounts"},
		"of another version": {pushes(artifact(owner, "0", "{}")), "another version"},
		"no index": {
			pushes(artifact(owner, cachemount.Format, "garbage")), "Building with empty cache mounts",
		},
		"a path that leads out": {pushes(hostile(`{"p":".","m":16877}{"p":"../../evil","m":33188,"s":4,"c":1}`, 2)),
			"leads elsewhere"},
		"a file through a link": {pushes(hostile(
			`{"p":".","m":16877}{"p":"a","m":41471,"l":"/"}{"p":"a/evil","m":33188,"s":4,"c":1}`, 3)),
			"is in no folder"},
		"a chunk that is gone": {damaged(func(w http.ResponseWriter, _ []byte) {
			w.WriteHeader(http.StatusNotFound)
		}), `cache mount \"/m\" is empty`},
		"half a chunk": {damaged(func(w http.ResponseWriter, whole []byte) {
			w.Write(whole[:len(whole)/2])
		}), `cache mount \"/m\" is empty`},
		"another chunk": {damaged(func(w http.ResponseWriter, whole []byte) {
			w.Write(slices.Repeat([]byte("x"), len(whole)))
		}), `cache mount \"/m\" is empty`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newComponent(t)
			test.spoil(t, c)
			spoilt := c.build(t, stateful("two"))
			spoilt.says(t, "")
			plain := func(text string) string { return strings.ReplaceAll(text, `\"`, `"`) }
			if !strings.Contains(plain(spoilt.output), plain(test.tells)) {
				t.Errorf("the log does not tell %q\n%s", test.tells, spoilt.output)
			}
			if spoilt.digest != cold.digest {
				t.Errorf("the image is %s, of a cold build %s", spoilt.digest, cold.digest)
			}
			c.answer(nil)
			c.publishes(t, &spoilt)
			c.run(t, stateful("three")).says(t, "two")
		})
	}
}

// What publish-image finds neither in the workspace nor in the component's mounts, it does not push.
func TestMountsThatLackAChunk(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	did := c.build(t, stateful("one"))
	largest, size := "", int64(0)
	blobs := filepath.Join(did.in.Workspace.CacheMounts(), "blobs", "sha256")
	for _, e := range must(os.ReadDir(blobs)) {
		if info := must(e.Info()); info.Size() > size {
			largest, size = e.Name(), info.Size()
		}
	}
	if err := os.Remove(filepath.Join(blobs, largest)); err != nil {
		t.Fatal(err)
	}
	c.publishes(t, &did)
	did.tells(t, "What cache mounts held is not pushed")
	if c.Has(t, "team/cart:cache-mounts") {
		t.Error("mounts are pushed that lack a chunk")
	}
}

func TestMountsUnderImmutableTags(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	c.change = func(in *Parameters) { in.Cache = cacheDisabled } // mounts alone
	c.run(t, stateful("one"))
	c.answer(func(w http.ResponseWriter, r *http.Request) bool {
		fixed := r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifests/cache-mounts")
		if fixed {
			w.WriteHeader(http.StatusPreconditionFailed)
		}
		return fixed
	})
	c.tag = "v2"
	second := c.run(t, stateful("two"))
	second.says(t, "one")
	second.tells(t, "What cache mounts held is not pushed")
	c.tag = "v3"
	third := c.run(t, stateful("three"))
	third.says(t, "one")
	third.tells(t, "immutable")
}

// A file that a RUN copies with its time from a mount has the same time in an image, whatever the mount held.
func TestTimesOfCacheMounts(t *testing.T) {
	t.Parallel()
	files := func(line string) map[string]string {
		return mounting(line, "target=/m: test -e /m/f || cat /dev/null > /m/f; /bin/busybox cp -p /m/f /copied; "+
			"echo said $(stat -c %Y /m/f)")
	}
	c := newComponent(t)
	c.run(t, files("one"))
	warm := c.run(t, files("two"))
	cold := newComponent(t).run(t, files("two"))
	if warm.digest != cold.digest {
		t.Errorf("the image is %s, with an empty mount %s\n%s\n%s", warm.digest, cold.digest, warm.output, cold.output)
	}
	third := c.run(t, files("three"))
	if fresh := newComponent(t).run(t, files("three")); third.digest != fresh.digest {
		t.Errorf("the image is %s, with an empty mount %s\n%s", third.digest, fresh.digest, third.output)
	}
}

// A builder's state that is kept has the mounts, and a build that uses it leaves them to others.
func TestMountsOfAStateThatIsKept(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	root := t.TempDir()
	c.change = func(in *Parameters) { in.BuildKitRoot = root }
	c.run(t, stateful("one")).says(t, "")
	again := c.run(t, stateful("two"))
	again.says(t, "one")
	if again.pulled > little || again.pushed > little {
		t.Errorf("pulled %d bytes, pushed %d\n%s", again.pulled, again.pushed, again.output)
	}
	c.change = nil
	c.run(t, stateful("three")).says(t, "two")
}

func TestMountLimits(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"": 0, "0": 0, "disabled": 0, "700": 700, "3Ki": 3 << 10, "500Mi": 500 << 20, "1Gi": 1 << 30, "2Ti": 2 << 40,
		"x": -1, "-1": -1, "1.5Gi": -1, "999999999999Ti": -1, "1Pi": -1,
	} {
		got, err := Parameters{CacheMountLimit: text}.mountLimit()
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
}

// Mounts stay in a daemon, and of a Dockerfile without any, none are asked for.
func TestBuildsThatKeepNoMounts(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	for name, test := range map[string]struct {
		files   map[string]string
		address string
		tells   string
	}{
		"daemon":    {stateful("one"), "tcp://127.0.0.1:1", "stay in the BuildKit daemon"},
		"no mounts": {stages("one"), "", ""},
	} {
		in := parameters(project(t, test.files), c.Registry)
		in.Owner, in.Registry, in.ImageName, in.CacheMountLimit = c.owner, c.Host, "team/cart", "1Gi"
		in.BuildKitAddress = test.address
		end := run(t, t.Context(), in)
		if (test.address != "") != (end.err != nil) || !strings.Contains(end.output, test.tells) {
			t.Errorf("%s: %v\n%s", name, end.err, end.output)
		}
	}
	if asked := c.Requests("GET", "cache-mounts"); len(asked) > 0 {
		t.Errorf("asked for %v", asked)
	}
}
