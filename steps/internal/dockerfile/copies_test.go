package dockerfile

import (
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/sampletest"
)

// made is a layer with folders and files of all kinds, which a COPY may meet.
const made = `FROM busybox:1
RUN mkdir -p /app/sub/deep /data /shared /empty && chmod 2750 /data && chown 7:8 /data && chmod 1777 /shared && \
    echo one > /app/kept && echo same > /app/same && echo old > /app/other && chown 5:6 /app /app/sub && \
    busybox ln -s /app /link && busybox ln -s ../data /app/linked && busybox ln -s nowhere /app/dangling && \
    busybox ln /app/kept /app/twice && seq 1 100000 > /large && chmod 640 /app/other && \
    echo "app:x:1234:1235::/:/bin/sh" >> /etc/passwd && echo "app:x:1235:" > /etc/group
`

// TestCopiesWithoutLayersBelow wants a build with a changed COPY to leave the image that a cold build leaves, and to
// fetch no layer below the COPY where it can do without.
func TestCopiesWithoutLayersBelow(t *testing.T) {
	t.Parallel()
	type shape struct {
		name       string
		dockerfile string
		first      map[string]string
		then       map[string]string // changes of first; "" removes
		fetches    bool
	}
	for _, c := range sampletest.Of(t, 16, []shape{
		{name: "into a folder", dockerfile: "COPY a /app/"},
		{name: "as a new file", dockerfile: "COPY a /app/new"},
		{name: "into a new folder", dockerfile: "COPY a /app/new/er/"},
		{name: "into a folder with an owner and setgid", dockerfile: "COPY a /data/"},
		{name: "into a new folder of one with setgid", dockerfile: "COPY a /data/new/"},
		{name: "into a sticky folder", dockerfile: "COPY a /shared/"},
		{name: "through a link", dockerfile: "COPY a /link/"},
		{name: "through a link in a folder", dockerfile: "COPY a /app/linked/x/", fetches: true},
		{name: "through a link that leads nowhere", dockerfile: "COPY a /app/dangling/"},
		{name: "over a link", dockerfile: "COPY a /app/dangling"},
		{name: "over a file", dockerfile: "COPY a /app/other"},
		{name: "over a file of another mode", dockerfile: "COPY --chmod=600 a /app/other"},
		{name: "over one of two names of a file", dockerfile: "COPY a /app/twice", fetches: true},
		{name: "with a chmod", dockerfile: "COPY --chmod=4711 a /app/"},
		{name: "with ids", dockerfile: "COPY --chown=12:34 a /app/sub/"},
		{name: "with a name of a user", dockerfile: "COPY --chown=app a /app/"},
		{name: "with names of a user and a group", dockerfile: "COPY --chown=app:app a /app/new/"},
		{name: "with a name that is none", dockerfile: "COPY --chown=0:app a /app/"},
		{
			name: "a folder into one that is there", dockerfile: "COPY . /app/",
			first: map[string]string{"sub/x": "x", "sub/deep/y": "y", "sub/new/z": "z", "same": "same\n"},
		},
		{
			name: "a folder with new folders", dockerfile: "COPY src /app/",
			first: map[string]string{"src/x": "x"}, then: map[string]string{"src/new/y": "y", "src/x": ""},
		},
		{
			name: "a folder that meets what was not met before", dockerfile: "COPY src /app/",
			first: map[string]string{"src/x": "x"}, then: map[string]string{"src/sub/deep/y": "y"}, fetches: true,
		},
		{
			name: "a file that meets what was not met before", dockerfile: "COPY src /app/",
			first: map[string]string{"src/x": "x"}, then: map[string]string{"src/same": "same\n"}, fetches: true,
		},
		{
			name: "a file that becomes the same", dockerfile: "COPY src /app/",
			first: map[string]string{"src/same": "some\n"}, then: map[string]string{"src/same": "same\n"},
		},
		{
			name: "a file that stays the same", dockerfile: "COPY a again /app/\nRUN true\nCOPY . /app/",
			first: map[string]string{"again": "again"}, then: map[string]string{"b": "b"},
		},
		{
			name: "a file that was the same", dockerfile: "COPY again /app/\nRUN true\nCOPY . /app/sub/../",
			first: map[string]string{"again": "again", "a": "fixed"}, then: map[string]string{"later": "later"},
		},
		{
			name: "a link over a link", dockerfile: "COPY src /app/",
			first: map[string]string{"src/dangling": "-> nowhere", "src/x": "x"}, then: map[string]string{"src/x": "y"},
		},
		{name: "several", dockerfile: "COPY a /app/a\nCOPY b /app/b\nCOPY a /app/b\nCOPY b /new/\nCOPY a /new/b"},
		{
			name: "the last of several", dockerfile: "COPY a /app/x/\nCOPY b /app/x/b",
			first: map[string]string{"a": "fixed", "b": "b"}, then: map[string]string{"b": "c"},
		},
		{
			name: "the first of several", dockerfile: "COPY b /app/x/\nCOPY a /app/x/a",
			first: map[string]string{"a": "fixed", "b": "b"}, then: map[string]string{"b": "c"},
		},
		{
			name: "from a stage", dockerfile: "COPY --from=tool /out /app/",
			first: map[string]string{}, then: map[string]string{},
		},
		{name: "the base image only", dockerfile: "FROM busybox:1\nCOPY a /bin/\nCOPY a /etc/a"},
		{name: "relative to a folder", dockerfile: "WORKDIR /app/sub\nCOPY a .\nWORKDIR new\nCOPY a ./"},
		{name: "a heredoc", dockerfile: "COPY <<EOF /app/new\ntext\nEOF\nCOPY a /app/"},
		{name: "to the root", dockerfile: "COPY . /"},
		{name: "with parents", dockerfile: "COPY --parents a /app/"},
		{name: "with labels after it", dockerfile: "COPY a /app/\nENV x=y\nLABEL a=b\nUSER 12"},
		{name: "ADD", dockerfile: "ADD a /app/", fetches: true},
		{name: "ADD and COPY", dockerfile: "ADD a /app/\nCOPY a /app/b", fetches: true},
		{name: "before a RUN", dockerfile: "COPY a /app/\nRUN cat /app/a > /app/b", fetches: true},
		{name: "linked", dockerfile: "COPY --link a /app/"},
	}) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"a": "one", "b": "other", ".dockerignore": "Dockerfile\n.dockerignore"}
			maps.Copy(files, c.first)
			files["Dockerfile"] = "FROM busybox:1 AS tool\nCOPY . /src\nRUN mkdir -p /out && cat /src/a > /out/a\n"
			if !strings.HasPrefix(c.dockerfile, "FROM") {
				files["Dockerfile"] += made
			}
			files["Dockerfile"] += c.dockerfile + "\n"
			changed := maps.Clone(files)
			changed["a"] = "two"
			if len(c.then) > 0 {
				changed["a"] = files["a"]
			}
			for name, content := range c.then {
				if changed[name] = content; content == "" {
					delete(changed, name)
				}
			}
			of := newComponent(t)
			of.run(t, files)
			warm := of.run(t, changed)
			cold := newComponent(t).build(t, changed)
			if warm.digest != cold.digest {
				t.Errorf("the image is %s, of a cold build %s\n%s", warm.digest, cold.digest, warm.output)
			}
			fetched := warm.pulled > 200_000
			if want := c.fetches || strings.Contains(c.dockerfile, "--from=tool"); fetched != want {
				t.Errorf("fetched %d bytes\n%s", warm.pulled, warm.output)
			}
			again := of.run(t, changed)
			if again.digest != cold.digest || again.pulled > 200_000 {
				t.Errorf("unchanged, the image is %s, and %d bytes were fetched\n%s", again.digest, again.pulled,
					again.output)
			}
			for _, step := range regexp.MustCompile(`(?m)^(#\d+) \[.*\] (COPY|ADD|RUN|WORKDIR) `).FindAllStringSubmatch(
				again.output, -1,
			) {
				if !strings.Contains(again.output, "\n"+step[1]+" CACHED\n") {
					t.Errorf("unchanged, %q is done again\n%s", step[0], again.output)
				}
			}
			if !strings.Contains(c.name, "several") {
				return
			}
			changed["b"] += ", again"
			third := of.run(t, changed)
			cold = newComponent(t).build(t, changed)
			if third.digest != cold.digest || third.pulled > 200_000 {
				t.Errorf("then, the image is %s, of a cold build %s, and %d bytes were fetched\n%s", third.digest,
					cold.digest, third.pulled, third.output)
			}
		})
	}
}

// TestCopiesInAStateThatIsKept wants what a state has of a COPY without the layers below to serve later builds in it.
func TestCopiesInAStateThatIsKept(t *testing.T) {
	t.Parallel()
	c := newComponent(t)
	files := map[string]string{"a": "one", ".dockerignore": "Dockerfile\n.dockerignore"}
	files["Dockerfile"] = made + "COPY . /app/\n"
	c.run(t, files)
	state := t.TempDir()
	c.change = func(in *Parameters) { in.BuildKitRoot = state }
	for _, change := range []struct {
		name, file, content string
		fetches             bool
	}{
		{"a line", "a", "two", false},
		{"nothing", "a", "two", false},
		{"another line", "a", "three", false},
		{"a RUN upon it", "Dockerfile", made + "COPY . /app/\nRUN cat /app/a /app/same > /b\n", true},
		{"a line below the RUN", "a", "four", false},
		{"no RUN upon it", "Dockerfile", made + "COPY . /app/\n", false},
	} {
		files[change.file] = change.content
		warm := c.run(t, files)
		if fetched := warm.pulled > 200_000; fetched != change.fetches {
			t.Errorf("%s: fetched %d bytes\n%s", change.name, warm.pulled, warm.output)
		}
		if cold := newComponent(t).build(t, files); warm.digest != cold.digest {
			t.Errorf("%s: the image is %s, of a cold build %s\n%s", change.name, warm.digest, cold.digest, warm.output)
		}
	}
}
