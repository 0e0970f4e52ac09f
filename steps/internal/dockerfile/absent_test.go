package dockerfile

import (
	"maps"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// A file that an instruction does not find: where it was looked for, why it is not there, and what is.
func TestAbsentFiles(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	tree := map[string]string{
		"README.md": "", "app/main.go": "", "app/Config.yaml": "", "app/src/index.js": "", "app/web/index.js": "",
		"app/.git/HEAD": "", ".git/HEAD": "", "shared/lib.js": "", "app/out": "-> /etc/hostname",
		"app/up": "-> ../shared", "app/in": "-> src", "app/secret.txt": "", "app/kept.txt": "", "app/caf\xe9": "",
	}
	for name, test := range map[string]struct {
		run     string // the instructions
		context string // empty: app
		files   map[string]string
		args    []string
		words   []string
		hint    string
		none    bool // nothing to explain: it works
	}{
		"nothing like it": {run: "COPY absent /", words: []string{
			`line 2: COPY absent /: "/absent": not found in the context "app"; it has `, `"main.go"`,
		}, hint: "docker.context"},
		"whole repository": {run: "COPY absent /", context: ".", words: []string{
			`"/absent": not found in the context, which is the whole repository; it has `, `"README.md"`, `"app"`}},
		"other case":       {run: "COPY config.yaml /", words: []string{`there is "Config.yaml"`}},
		"similar":          {run: "COPY man.go /", words: []string{`there is "main.go"`}},
		"in other folders": {run: "COPY index.js /", words: []string{`there is "src/index.js", "web/index.js"`}},
		"beside":           {run: "COPY src/absent /", words: []string{`"src" has "index.js"`}},
		"above, too": {
			run:   "COPY shared/lib.js /",
			words: []string{`but the repository has "shared/lib.js"`},
			hint:  "docker.context",
		},
		"context too high": {
			run: "COPY src/index.js /", context: ".",
			words: []string{`there is "app/src/index.js"`},
		},
		"way out": {
			run:   "COPY ../shared/lib.js /",
			words: []string{`"../shared/lib.js" cannot lead out of it`},
			hint:  `"shared"`,
		},
		"way out to nothing": {run: "COPY ../absent /", words: []string{`"/absent": not found in the context "app"`}},
		"link out": {
			run:   "COPY out /",
			words: []string{`the link "out" leads out of it, to "/etc/hostname"`},
		},
		"through a link out": {
			run:   "COPY up/lib.js /",
			words: []string{`the link "up" leads out of it, to "../shared"`},
		},
		"through two links out": {run: "COPY two/absent /", files: map[string]string{
			"app/two": "-> one", "app/one": "-> /"}, words: []string{`"/two/absent": not found`}},
		"through a link": {run: "COPY in/index.js /", none: true},
		"second of two":  {run: "COPY main.go absent /x/", words: []string{`"/absent": not found`}},
		"ADD": {
			run:   "ADD absent.tar /x/",
			words: []string{`"/absent.tar": not found in the context "app"`},
		},
		"COPY --link": {
			run:   "COPY --link absent /",
			words: []string{`"/absent": not found in the context "app"`},
		},
		"mount": {
			run:   "RUN --mount=source=absent,target=/x true",
			words: []string{`"/absent": not found in the context "app"`},
		},
		"variable": {
			run:   "ARG F=abs\nENV G=${F}ent\nCOPY $G /",
			words: []string{`line 4: COPY $G /: "/absent": not found`},
		},
		"argument": {
			run:   "ARG F=main.go\nCOPY $F /",
			args:  []string{"F", "absent"},
			words: []string{`"/absent": not found`},
		},
		"pattern in no folder": {run: "COPY absent/*.go /x/", words: []string{`"/absent": not found`}},
		"pattern of nothing":   {run: "COPY *.absent /x/", none: true},
		"no UTF-8":             {run: "COPY caf\xe9 /", words: []string{"is no UTF-8"}, hint: "a ? stands"},
		"pattern for it":       {run: "COPY caf? /x/", none: true},
		".git": {
			run:   "COPY .git/HEAD /",
			words: []string{`"/.git/HEAD": not found: .git is left out`},
			hint:  "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
		},
		".git, kept": {
			run:  "COPY .git/HEAD /",
			args: []string{"BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1"},
			none: true,
		},
		"ignored": {
			run:   "COPY secret.txt /",
			files: map[string]string{"app/.dockerignore": "# x\n\n*.txt \n!kept.txt\n"},
			words: []string{`"/secret.txt": not found, since line 3 of app/.dockerignore, "*.txt", leaves it out`},
			hint:  "!secret.txt"},
		"ignored, but taken back": {
			run:   "COPY kept.txt /",
			files: map[string]string{"app/.dockerignore": "*.txt\n!kept.txt\n"},
			none:  true,
		},
		"ignored by podman's": {
			run:   "COPY src/index.js /",
			files: map[string]string{"app/.containerignore": "src\n"},
			words: []string{"line 1 of app/.containerignore, \"src\","},
		},
		"ignored next to it": {
			run:   "COPY src /",
			files: map[string]string{"Dockerfile.dockerignore": "main.go\n**/src\n"},
			words: []string{"line 2 of Dockerfile.dockerignore"},
		},
		"ignored behind a link": {
			run:   "COPY in/index.js /",
			files: map[string]string{"app/.dockerignore": "src\n"},
			words: []string{"line 1 of app/.dockerignore"},
		},
		"stage": {
			run:   "COPY --from=0 /absent /",
			words: []string{`no such file in stage "0"`},
			hint:  "line 1",
		},
		"image": {
			run:   "COPY --from=busybox:1 /absent /",
			words: []string{`"/absent": no such file in image busybox:1`},
		},
		"stage's mount": {
			run:   "RUN --mount=from=base,source=absent,target=/x true",
			words: []string{`no such file in stage "base"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := maps.Clone(tree)
			maps.Copy(files, test.files)
			files["Dockerfile"] = "FROM busybox:1 AS base\n" + test.run + "\n"
			if strings.Contains(test.run, "from=") {
				files["Dockerfile"] = "FROM busybox:1 AS base\nFROM busybox:1\n" + test.run + "\n"
			}
			in := parameters(project(t, files), r)
			if in.DockerContext = test.context; test.context == "" {
				in.DockerContext = "app"
			}
			in.BuildArgs = named(test.args...)
			if test.none {
				succeed(t, in)
				return
			}
			end := fail(t, in, outcome.BuildFailed, test.words...)
			if got := outcome.Of(end.err); !strings.Contains(got.Hint, test.hint) || got.Hint == "" {
				t.Errorf("the hint is %q", got.Hint)
			} else if strings.Contains(got.Message, `"dev"`) || strings.Contains(got.Message, "checksum") {
				t.Errorf("the builder's own words are told: %s", got.Message)
			}
		})
	}
}
