package dockerfile

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// archived is a tar archive of one file, old, of the time at.
func archived(at time.Time) string {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: "archived", Mode: 0o644, ModTime: at, Format: tar.FormatPAX,
	}); err != nil {
		panic(err)
	}
	w.Close()
	return b.String()
}

// recording is a project whose RUNs record times of files of every origin.
func recording() map[string]string {
	return map[string]string{
		"Dockerfile": `FROM busybox:1 AS build
COPY jar /stage/copied
RUN echo made > /stage/made
RUN mkdir /stage/folder && echo inside > /stage/folder/inside
RUN stat -c '%n %Y' /stage/copied /stage/made > /stage/record
FROM busybox:1
WORKDIR /work
COPY jar copied
ADD archive.tar /added/
COPY --from=build /stage /stage
RUN echo made > made && ln made hard && ln -s made soft && mkdir folder && touch -d '2020-02-02 02:02:02' old \
 && touch folder/a folder/b
RUN rm folder/a && chmod 600 /etc/passwd
RUN --mount=type=bind,from=build,source=/stage,target=/mounted stat -c '%n %Y' /bin/busybox /etc/passwd /work/copied \
    /added/archived /added /stage/* /stage/folder/inside made hard soft folder folder/b old > record \
 && stat -c %Y /mounted/made > mounted
`,
		"jar":         "content",
		"archive.tar": archived(time.Date(2019, 1, 1, 0, 0, 0, 500_000_000, time.UTC)),
	}
}

// told are the times in a file of lines of a path and a time.
func told(t *testing.T, b built, file string) map[string]int64 {
	t.Helper()
	times := map[string]int64{}
	for line := range strings.Lines(b.files[file]) {
		path, seconds, ok := strings.Cut(strings.TrimSpace(line), " ")
		at, err := strconv.ParseInt(seconds, 10, 64)
		if !ok || err != nil {
			t.Fatalf("%s: %q", file, line)
		}
		if path = strings.TrimPrefix(path, "/"); b.headers[path] == nil {
			path = filepath.Join(filepath.Dir(file), path)
		}
		times[path] = at
	}
	if len(times) == 0 {
		t.Fatalf("%s tells nothing", file)
	}
	return times
}

// What a RUN records of the times of files is true of the image, wherever the files came from.
func TestRecordedTimes(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for timestamps, want := range map[string]time.Time{"fixed": fixedTime, "commit": commitTime, "keep": {}} {
		t.Run(timestamps, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, recording()), r)
			in.Timestamps = timestamps
			b := succeed(t, in)
			for _, record := range []string{"work/record", "stage/record"} {
				for path, at := range told(t, b, record) {
					h := b.headers[path]
					if h == nil {
						t.Errorf("%s is not in the image", path)
						continue
					}
					if got := h.ModTime.Unix(); got != at {
						t.Errorf("%s: %s has %s in the image", record, path, time.Unix(at-got, 0).UTC())
					}
				}
			}
			times := told(t, b, "work/record")
			for path, at := range map[string]time.Time{
				"bin/busybox": time.Unix(1700000000, 0), "work/old": time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC),
				"added/archived": time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC),
			} {
				if times[path] != at.Unix() {
					t.Errorf("%s has %s", path, time.Unix(times[path], 0).UTC())
				}
			}
			if timestamps == "keep" {
				if now := time.Now().Unix(); times["work/made"] < now-600 {
					t.Errorf("made at %d, now is %d", times["work/made"], now)
				}
				return
			}
			if got := strings.TrimSpace(b.files["work/mounted"]); got != strconv.FormatInt(want.Unix(), 10) {
				t.Errorf("mounted from another stage: %s", got)
			}
			for path, h := range b.headers {
				if h.ModTime.After(want) && h.ModTime.After(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)) {
					t.Errorf("%s is of %s", path, h.ModTime)
				}
			}
			for _, path := range []string{"work", "work/copied", "work/made", "work/hard", "work/soft", "work/folder",
				"added", "stage", "stage/copied", "stage/made", "stage/folder/inside"} {
				if got := b.headers[path].ModTime; !got.Equal(want) {
					t.Errorf("%s is of %s, want %s", path, got, want)
				}
			}
			if !b.config.Created.Equal(commitTime) {
				t.Errorf("created %s", b.config.Created)
			}
			for i, h := range b.config.History[1:] { // the first one is the base's
				if !h.Created.Equal(commitTime) {
					t.Errorf("history %d: %s is of %s", i+1, h.CreatedBy, h.Created)
				}
			}
		})
	}
}

// What one RUN makes and records at once stays true, too, also where another stage copies it.
func TestTimesRecordedAtOnce(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	// little prints a number of four bytes as programs do.
	const little = `o() { printf "\\$(printf '%03o' $(($1&255)))"; }; ` +
		`n() { o $1; o $(($1>>8)); o $(($1>>16)); o $(($1>>24)); }; t=$(stat -c %Y jar); `
	for name, record := range map[string]string{
		"text":   `stat -c '%n %Y' jar > record`,
		"Java":   little + `{ printf head; n $t; n 0; n 4711; n 0; } > classes.jsa`,
		"Python": little + `{ printf '\313\15\15\12'; n 0; n $t; n 4711; } > module.pyc`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1 AS build\nWORKDIR /app\n" +
				"RUN head -c 4711 /dev/zero > jar; sleep 2; echo y > other; sleep 2; " + record + "\n" +
				"FROM scratch\nCOPY --from=build /app /app\n"}), r)
			started := time.Now().Add(-2 * time.Second)
			end := run(t, t.Context(), in)
			if end.err != nil {
				t.Fatal(end.err)
			}
			b := open1(t, in.Workspace)
			if at := b.headers["app/jar"].ModTime; at.Before(started) {
				t.Errorf("jar is of %s", at)
			} else if text := b.files["app/record"]; text != "" && told(t, b, "app/record")["app/jar"] != at.Unix() {
				t.Errorf("jar is of %d, recorded: %s", at.Unix(), text)
			}
			if at := b.headers["app/other"].ModTime; !at.Equal(fixedTime) {
				t.Errorf("a file whose time nothing holds is of %s", at)
			}
			if !strings.Contains(end.output, "holds times of this build") {
				t.Errorf("nobody is told:\n%s", end.output)
			}
		})
	}
}

// Files of a later RUN are younger to the RUNs after it, for make and its like.
func TestOrderOfTimes(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for name, root := range map[string]string{"stacked": "state", "copied": "a,b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{
				"Dockerfile": "FROM busybox:1\nCOPY a /0\nRUN echo > /1\nRUN echo > /2\nRUN touch /1\n" +
					"RUN stat -c %y /0 /2 /1 > /order\n",
				"a": "",
			}), r)
			in.BuildKitRoot = filepath.Join(t.TempDir(), root)
			times := strings.Split(strings.TrimSpace(succeed(t, in).files["order"]), "\n")
			if len(times) != 3 || !slices.IsSorted(times) || len(slices.Compact(times)) != 3 {
				t.Errorf("times: %q", times)
			}
		})
	}
}

// One commit gives one digest whether an earlier commit's build has left layers or not.
func TestTimesOfCachedLayers(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for timestamps, common := range map[string]int{"fixed": 5, "commit": 1} {
		t.Run(timestamps, func(t *testing.T) {
			t.Parallel()
			later := commitTime.Add(time.Hour)
			build := func(root, content string, at time.Time) built {
				in := parameters(project(t, map[string]string{
					"Dockerfile": "FROM busybox:1\nWORKDIR /first\nCOPY sub sub\n" +
						"RUN echo x > made && mkdir folder && rm sub/b\nCOPY a /a\nRUN stat -c %Y made /a > record\n",
					"a": content, "sub/b": "", "sub/c": "",
				}), r)
				if err := in.Workspace.WriteRevision(workspace.Revision{Commit: commit, Time: at}); err != nil {
					t.Fatal(err)
				}
				in.Timestamps, in.BuildKitRoot = timestamps, root
				return succeed(t, in)
			}
			kept := filepath.Join(t.TempDir(), "kept")
			first, warm := build(kept, "one", commitTime), build(kept, "two", later)
			cold := build(filepath.Join(t.TempDir(), "cold"), "two", later)
			if warm.digest != cold.digest {
				t.Errorf("digest with an earlier build's layers %s, without %s", warm.digest, cold.digest)
			}
			if !warm.config.Created.Equal(later) {
				t.Errorf("created %s", warm.config.Created)
			}
			same := 0
			for i, l := range must(first.image.Layers()) {
				if must(l.Digest()) == must(must(warm.image.Layers())[i].Digest()) {
					same++
				}
			}
			if same != common {
				t.Errorf("%d layers are the same in both commits, want %d", same, common)
			}
		})
	}
}

// Layers that builds with other times have left in a state are not taken.
func TestStateOfOtherTimes(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	kept := filepath.Join(t.TempDir(), "kept")
	digests := map[string][]string{}
	for _, b := range []struct{ timestamps, root string }{
		{"keep", kept}, {"fixed", kept}, {"commit", kept}, {"fixed", kept}, {"fixed", ""}, {"commit", ""},
	} {
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM busybox:1\nCOPY a /a\nRUN echo x > /made\n", "a": "",
		}), r)
		in.Timestamps, in.BuildKitRoot = b.timestamps, b.root
		digests[b.timestamps] = append(digests[b.timestamps], succeed(t, in).digest.String())
	}
	for _, timestamps := range []string{"fixed", "commit"} {
		all := digests[timestamps]
		slices.Sort(all)
		if len(slices.Compact(all)) != 1 {
			t.Errorf("%s: digests %q", timestamps, all)
		}
	}
}

// Cache mounts are programs' own, which look at times to tell what is old.
func TestTimesInCacheMounts(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	root := filepath.Join(t.TempDir(), "state")
	var last built
	for _, content := range []string{"one", "two"} {
		in := parameters(project(t, map[string]string{
			"Dockerfile": "FROM busybox:1\nCOPY a /\n" +
				"RUN --mount=type=cache,target=/cache touch /cache/$(cat a) && stat -c %Y /cache/one > /times\n",
			"a": content,
		}), r)
		in.BuildKitRoot = root
		last = succeed(t, in)
	}
	at, err := strconv.ParseInt(strings.TrimSpace(last.files["times"]), 10, 64)
	if now := time.Now().Unix(); err != nil || at < now-600 {
		t.Errorf("the earlier build's file is of %d, now is %d: %v", at, now, err)
	}
}

// A changed file of the context is seen though its time and size are the same.
func TestContextIsSentAnew(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	root := filepath.Join(t.TempDir(), "state")
	for _, content := range []string{"one", "two"} {
		in := parameters(project(t, map[string]string{"Dockerfile": "FROM busybox:1\nCOPY a /\n", "a": content}), r)
		in.BuildKitRoot, in.Component = root, "cart"
		if got := succeed(t, in).files["a"]; got != content {
			t.Errorf("the image has %q, the context %q", got, content)
		}
	}
}

// A Dockerfile that asks for the time of the source gets the commit's.
func TestSourceDateEpochArgument(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM busybox:1\nARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n",
	}), r)
	b := succeed(t, in)
	if got, want := strings.TrimSpace(b.files["epoch"]), strconv.FormatInt(commitTime.Unix(), 10); got != want {
		t.Errorf("epoch %q, want %q", got, want)
	}
	if !b.config.Created.Equal(commitTime) || !b.headers["epoch"].ModTime.Equal(fixedTime) {
		t.Errorf("created %s, the file is of %s", b.config.Created, b.headers["epoch"].ModTime)
	}
}

// BenchmarkLayer builds a layer of 1 GiB that does not compress.
func BenchmarkLayer(b *testing.B) {
	r := newRegistry(b)
	for _, timestamps := range []string{"fixed", "keep"} {
		b.Run(timestamps, func(b *testing.B) {
			for b.Loop() {
				in := parameters(project(b, map[string]string{
					"Dockerfile": "FROM busybox:1\nRUN head -c 1073741824 /dev/urandom > /big\n",
				}), r)
				in.Timestamps = timestamps
				if end := run(b, b.Context(), in); end.err != nil {
					b.Fatal(end.err)
				}
				os.RemoveAll(string(in.Workspace))
			}
		})
	}
}

// TestCopiedFilesOfOneTime wants files of two stages, which have the same path, size and time, not to be taken for the
// same.
func TestCopiedFilesOfOneTime(t *testing.T) {
	t.Parallel()
	for name, dockerfile := range map[string]string{
		"a file":       "RUN echo two > /x\nCOPY --from=other /x /x\n",
		"before a RUN": "RUN echo two > /x\nCOPY --from=other /x /x\nRUN cat /x > /y\n",
		"in a folder":  "RUN mkdir /in && echo two > /in/x\nCOPY --from=other /x /in/\nCOPY --from=other /in /\n",
		"a link":       "RUN busybox ln -s two /link\nCOPY --from=other / /\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := succeed(t, parameters(project(t, map[string]string{
				"Dockerfile": "FROM busybox:1 AS other\nRUN echo one > /x && mkdir /in && echo one > /in/x && " +
					"busybox ln -s one /link\nFROM busybox:1\n" + dockerfile,
			}), newRegistry(t)))
			for _, name := range []string{"x", "in/x", "y"} {
				if content, ok := image.files[name]; ok && content != "one\n" {
					t.Errorf("%s is %q", name, content)
				}
			}
			if link := image.headers["link"]; link != nil && link.Linkname != "one" {
				t.Errorf("the link leads to %q", link.Linkname)
			}
		})
	}
}
