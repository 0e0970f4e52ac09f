package dockerfile

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/sampletest"
)

// commits are two commits, of which the later one is built with what a build of the earlier one has left.
type commits struct{ earlier, later time.Time }

// dated is a tar archive with a file, a folder, a symbolic and a hard link of each of these times.
func dated(times map[string]time.Time) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"before", "between", "after"} {
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755},
			{Typeflag: tar.TypeReg, Name: name + "/file", Mode: 0o644},
			{Typeflag: tar.TypeSymlink, Name: name + "/soft", Linkname: "file", Mode: 0o777},
			{Typeflag: tar.TypeLink, Name: name + "/hard", Linkname: name + "/file", Mode: 0o644},
		} {
			h.ModTime, h.Format = times[name], tar.FormatPAX
			if err := w.WriteHeader(&h); err != nil {
				panic(err)
			}
		}
	}
	w.Close()
	return b.String()
}

// source is a project at one of the commits. Its files have times before both commits, between them, and after both.
// What the earlier one has made is in the later one, too, as layers and as files that another layer takes.
func (c commits) source(line string, last string) map[string]string {
	times := map[string]time.Time{
		"before":  c.earlier.AddDate(-3, 0, 0),
		"between": c.earlier.Add(c.later.Sub(c.earlier) / 2).Truncate(time.Second),
		"after":   time.Date(2041, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	var touch []string
	for _, name := range []string{"before", "between", "after"} {
		at := times[name].Unix()
		touch = append(touch, fmt.Sprintf(
			"mkdir %[1]s && echo %[1]s > %[1]s/file && ln -s file %[1]s/soft && ln %[1]s/file %[1]s/hard && "+
				"touch -h -d @%[2]d %[1]s/file %[1]s/soft %[1]s", name, at))
	}
	made := strings.Join(touch, " && ") + " && mkdir own && echo own > own/file && ln -s file own/soft"
	return map[string]string{
		"line": line, "kept": "kept", "times.tar": dated(times), "folder/file": "in a folder",
		"Dockerfile": `FROM busybox:1 AS made
WORKDIR /made
RUN ` + made + `
FROM busybox:1
WORKDIR /work
COPY kept folder/ copied/
ADD times.tar /added/
RUN ` + made + `
RUN --mount=type=bind,source=times.tar,target=/times.tar mkdir /unpacked && tar x -C /unpacked -f /times.tar
RUN rm -r /added/before && rm after/file && chmod 600 /etc/passwd between/file copied/kept
COPY line /line
COPY --from=made /made /taken/with-` + line + `
RUN cat /line > /read
` + last,
	}
}

// buildAt builds a commit of a time.
func (c *component) buildAt(t testing.TB, at time.Time, files map[string]string) cycle {
	t.Helper()
	change := c.change
	defer func() { c.change = change }()
	c.change = func(in *Parameters) {
		if change != nil {
			change(in)
		}
		in.SourceDateEpoch = at.Unix()
	}
	return c.build(t, files)
}

// runAt builds a commit of a time, and publishes the image and its cache.
func (c *component) runAt(t testing.TB, at time.Time, files map[string]string) {
	t.Helper()
	did := c.buildAt(t, at, files)
	c.publishes(t, &did)
}

// lose has the registry lose the layers of the component's cache.
func (c *component) lose(t testing.TB) {
	t.Helper()
	layers := c.cacheOf(t).Layers
	c.answer(func(w http.ResponseWriter, r *http.Request) bool {
		asked := r.Method == http.MethodGet || r.Method == http.MethodHead
		lost := asked && slices.ContainsFunc(layers, func(l cacheLayer) bool {
			return l.From == "" && strings.HasSuffix(r.URL.Path, "/team/cart/blobs/"+l.Digest.String())
		})
		if lost {
			w.WriteHeader(http.StatusNotFound)
		}
		return lost
	})
}

// One commit gives one digest, whatever builds of an earlier commit have left, and wherever.
func TestOneCommitOneDigest(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	type pair struct {
		name string
		commits
	}
	pairs := []pair{
		{"commits of years ago", commits{now.AddDate(-6, 0, 0), now.AddDate(-4, 0, 0)}},
		{"commits of this year", commits{time.Date(2026, 3, 1, 1, 2, 3, 0, time.UTC), now.AddDate(0, 0, -1)}},
		// What was made for the earlier one is older than the later one.
		{"a commit after the build of the other", commits{now.AddDate(0, -1, 0), now.Add(time.Hour)}},
	}
	for builder, some := range map[string]int{"in process": 1, "by daemon": 2} {
		for _, commits := range sampletest.Of(t, some, pairs) {
			t.Run(builder+", "+commits.name, func(t *testing.T) {
				t.Parallel()
				fresh := func(t testing.TB, c *component) {
					if builder == "by daemon" {
						c.useDaemon(t)
					}
				}
				cold := newComponent(t)
				fresh(t, cold)
				want := cold.buildAt(t, commits.later, commits.source("two", "")).digest
				type leaving struct {
					name string
					left func(t testing.TB, c *component)
				}
				for _, test := range sampletest.Of(t, 2, []leaving{
					{"of the commit itself", func(t testing.TB, c *component) {
						c.runAt(t, commits.later, commits.source("two", ""))
					}},
					{"of the earlier commit", func(t testing.TB, c *component) {
						c.runAt(t, commits.earlier, commits.source("one", ""))
					}},
					{"of the earlier commit, for a fresh builder", func(t testing.TB, c *component) {
						c.runAt(t, commits.earlier, commits.source("one", ""))
						fresh(t, c)
					}},
					{"of the earlier commit, and no cache", func(t testing.TB, c *component) {
						c.runAt(t, commits.earlier, commits.source("one", ""))
						change := c.change
						c.change = func(in *Parameters) {
							if change != nil {
								change(in)
							}
							in.Cache = cacheDisabled
						}
					}},
					{"of another branch since", func(t testing.TB, c *component) {
						c.runAt(t, commits.earlier, commits.source("one", ""))
						c.runAt(t, commits.earlier, map[string]string{
							"Dockerfile": "FROM busybox:1\nRUN echo > /x\n",
						})
					}},
					{"of a build that failed", func(t testing.TB, c *component) {
						in := parameters(project(t, commits.source("one", "RUN false\n")), c.Registry)
						in.Owner, in.SourceDateEpoch = c.owner, commits.earlier.Unix()
						if c.change != nil {
							c.change(&in)
						}
						if end := run(t, t.Context(), in); outcome.Of(end.err).Reason != outcome.BuildFailed {
							t.Fatalf("%v\n%s", end.err, end.output)
						}
					}},
					{"foreign", func(t testing.TB, c *component) {
						c.owner.Component = "till"
						c.runAt(t, commits.earlier, commits.source("one", ""))
						c.owner.Component = "cart"
					}},
					{"damaged", func(t testing.TB, c *component) {
						c.runAt(t, commits.earlier, commits.source("one", ""))
						c.lose(t)
						fresh(t, c)
					}},
				}) {
					t.Run(test.name, func(t *testing.T) {
						c := newComponent(t)
						fresh(t, c)
						test.left(t, c)
						built := c.buildAt(t, commits.later, commits.source("two", ""))
						if built.digest != want {
							t.Errorf("the image is %s, of a cold build %s\n%s", built.digest, want, built.output)
						}
					})
				}
			})
		}
	}
}

// Where only times of files have changed that a COPY or a RUN takes from a stage, they change in the image, too. What a
// daemon remembers them by, nobody can change.
func TestCopiesOfOtherTimes(t *testing.T) {
	t.Parallel()
	files := func(day int) map[string]string {
		return map[string]string{"Dockerfile": fmt.Sprintf(`FROM busybox:1 AS made
RUN echo x > /x && mkdir /in && echo y > /in/y && ln -s y /in/z && touch -h -d '2019-01-%02d 01:01:01' /x /in/y /in/z
FROM busybox:1
COPY --from=made /x /x
COPY --from=made /in/* /all/
RUN --mount=type=bind,from=made,target=/made cp -a /made/in /in
`, day)}
	}
	c := newComponent(t)
	c.run(t, files(1))
	warm, cold := c.run(t, files(2)), newComponent(t).run(t, files(2))
	if warm.digest != cold.digest {
		t.Errorf("the image is %s, of a cold build %s\n%s", warm.digest, cold.digest, warm.output)
	}
	if again := c.run(t, files(2)); again.digest != cold.digest || strings.Count(again.output, " CACHED\n") < 4 {
		t.Errorf("unchanged, the image is %s\n%s", again.digest, again.output)
	}
}
