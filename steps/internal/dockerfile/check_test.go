package dockerfile

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/internal/outcome"
)

// What a frontend says no to is the user's to mend, with the line. None of these may be called a defect.
func TestDockerfileFaults(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	const invalid = outcome.DockerfileInvalid
	for name, test := range map[string]struct {
		dockerfile, target string
		args               []string
		reason             outcome.Reason
		words              []string
	}{
		"checks that fail": {dockerfile: "# check=error=true\nFROM busybox:1 as a\nCMD true\n",
			words: []string{"(line 2)", "JSONArgsRecommended", "(line 3)"}},
		"checks that fail by an argument": {dockerfile: "FROM busybox:1\nCMD true\n",
			args: []string{"BUILDKIT_DOCKERFILE_CHECK", "error=true"}, words: []string{"(line 2)"}},
		"checks that nobody knows": {dockerfile: "# check=fail=true\nFROM busybox:1\n",
			words: []string{"line 1: # check=fail=true"}},
		"checks that nobody knows, by an argument": {dockerfile: "FROM busybox:1\n", reason: outcome.InvalidParameters,
			args: []string{"BUILDKIT_DOCKERFILE_CHECK", "fail"}, words: []string{"BUILDKIT_DOCKERFILE_CHECK"}},
		"an argument that is no number": {dockerfile: "FROM busybox:1\n", reason: outcome.InvalidParameters,
			args: []string{"BUILDKIT_MULTI_PLATFORM", "perhaps"}, words: []string{"BUILDKIT_MULTI_PLATFORM"}},
		"the machine's network": {dockerfile: "FROM busybox:1\n\nRUN --network=host true\n",
			words: []string{"line 3: RUN --network=host true: ", "network"}},
		"the machine's network, in a stage below": {
			dockerfile: "ARG B=a\nFROM busybox:1 AS a\nRUN --network=host true\nFROM $B AS b\nFROM scratch\n" +
				"COPY --from=b /bin /\n",
			words: []string{"line 3: RUN --network=host true: "}},
		"the machine's network, by ONBUILD": {
			dockerfile: "FROM busybox:1 AS a\nONBUILD RUN --network=host true\nFROM a\n",
			words:      []string{"line 3: FROM a: ", "network"}},
		"a network that is none": {
			dockerfile: "FROM busybox:1\nRUN --network=x true\n",
			words:      []string{"line 2"},
		},
		"the machine's rights": {
			dockerfile: "FROM busybox:1\nRUN --security=insecure true\n",
			words:      []string{"line 2"},
		},
		"a device": {
			dockerfile: "FROM busybox:1\nRUN --device=a.b/c=d,required true\n",
			words:      []string{"line 2", "a.b/c=d"},
		},
		"only ARG":      {dockerfile: "ARG X=1\n", words: []string{"has no FROM"}},
		"nothing":       {words: []string{"no instructions"}},
		"only comments": {dockerfile: "# a\n\n# b\n", words: []string{"no instructions"}},
		"an instruction that is none": {
			dockerfile: "FROM busybox:1\nRUNN true\n",
			words:      []string{"line 2", "RUNN"},
		},
		"a flag that is none": {
			dockerfile: "FROM busybox:1\nCOPY --x a b\n",
			words:      []string{"line 2", "--x"},
		},
		"a heredoc that does not end": {
			dockerfile: "FROM busybox:1\nRUN <<EOF\ntrue\n",
			words:      []string{"line 2", "heredoc"},
		},
		"a mount that is none": {
			dockerfile: "FROM busybox:1\nRUN --mount=type=x true\n",
			words:      []string{"line 2"},
		},
		"a stage that is not there": {
			dockerfile: "FROM busybox:1 AS a\n",
			target:     "b",
			words:      []string{`"b"`, `"a"`},
		},
		"a stage by its number": {
			dockerfile: "FROM busybox:1\nFROM scratch\n",
			target:     "0",
			words:      []string{`"0"`},
		},
		"COPY from a stage by its number": {
			dockerfile: "FROM busybox:1\nCOPY --from=7 /a /\n",
			words:      []string{"line 2", "no stage 7"},
		},
		"COPY from a variable": {
			dockerfile: "FROM busybox:1 AS a\nFROM busybox:1\nCOPY --from=$X /a /\n",
			words:      []string{"line 3", "variables"},
		},
		"COPY from a later stage": {
			dockerfile: "FROM busybox:1 AS a\nCOPY --from=b /a /\nFROM busybox:1 AS b\n",
			target:     "a",
			words:      []string{"line 2", `"b"`},
		},
		"COPY from itself": {
			dockerfile: "FROM busybox:1 AS a\nCOPY --from=a /a /\n",
			words:      []string{"line 2", "circular"},
		},
		"COPY from a name that is none": {
			dockerfile: "FROM busybox:1\nCOPY --from=No:Such:x /a /\n",
			words:      []string{"line 2"},
		},
		"a mount from a later stage": {
			dockerfile: "FROM busybox:1 AS a\nRUN --mount=from=b,target=/b true\nFROM busybox:1 AS b\n",
			target:     "a",
			words:      []string{"line 2", `"b"`},
		},
		"a base image's name that is none": {dockerfile: "FROM BusyBox:1\n", words: []string{"line 1", "lowercase"}},
		"a platform that is none": {
			dockerfile: "FROM --platform=a/b/c/d/e busybox:1\n",
			words:      []string{"line 1", "a/b/c/d/e"},
		},
		"a platform that is empty": {
			dockerfile: "FROM --platform=$X busybox:1\n",
			words:      []string{"line 1", "$X"},
		},
		"ONBUILD that may not be": {
			dockerfile: "FROM busybox:1\nONBUILD FROM a\n",
			words:      []string{"line 2", "ONBUILD"},
		},
		"ONBUILD that is none": {
			dockerfile: "FROM busybox:1 AS a\nONBUILD X\nFROM a\n",
			words:      []string{"line 3", "X"},
		},
		"a port that is none": {
			dockerfile: "FROM busybox:1\nEXPOSE 99999999\n",
			words:      []string{"line 2", "99999999"},
		},
		"a variable that cannot be": {
			dockerfile: "FROM busybox:1\nENV A=${x:^}\n",
			words:      []string{"line 2", "${x:^}"},
		},
		"COPY of a URL": {
			dockerfile: "FROM busybox:1\nCOPY https://x/y /\n",
			words:      []string{"line 2", "URL"},
		},
		"a mode that is none": {
			dockerfile: "FROM busybox:1\nCOPY --chmod=x Dockerfile /\n",
			words:      []string{"line 2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{"Dockerfile": test.dockerfile}), r)
			in.Target, in.BuildArgs = test.target, named(test.args...)
			if test.reason == "" {
				test.reason = invalid
			}
			end := fail(t, in, test.reason, test.words...)
			if failure := outcome.Of(end.err); strings.Contains(failure.Hint+failure.Reason.Hint(), "defect") {
				t.Errorf("the hint is %q", failure.Hint)
			}
		})
	}
}

// What no build may do does no harm where it is not built.
func TestStagesThatAreNotBuilt(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM busybox:1 AS a\nRUN --network=host --device=a.b/c=d,required true\nFROM busybox:1\n" +
			"RUN --network=none true\n",
	}), r)
	succeed(t, in)
}

// What a base image brings by ONBUILD is known to the builder only, and still the user's to mend.
func TestTriggersOfBaseImages(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for trigger, words := range map[string]string{
		"RUN --network=host true": "network.host is not allowed", "RUN --security=insecure true": "security.insecure",
		"RUNN true": "line 1: FROM team/base:1: unknown instruction: RUNN",
	} {
		t.Run(trigger, func(t *testing.T) {
			t.Parallel()
			base := must(busybox())
			config := must(base.ConfigFile()).DeepCopy()
			config.Config.OnBuild = []string{trigger}
			name := "team/base:" + strings.ToLower(strings.Trim(strings.Map(func(r rune) rune {
				if r < 'A' || r > 'z' {
					return '-'
				}
				return r
			}, trigger), "-"))
			r.Push(t, name, must(mutate.ConfigFile(base, config)))
			in := parameters(project(t, map[string]string{"Dockerfile": "FROM " + name + "\n"}), r)
			fail(t, in, outcome.DockerfileInvalid, strings.ReplaceAll(words, "team/base:1", name))
		})
	}
}

// A `# syntax=` line is never followed: a frontend is a program from a registry. That is told where it may matter.
func TestOtherFrontends(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	for syntax, told := range map[string]bool{
		"docker/dockerfile:1": false, "docker.io/docker/dockerfile:1.7": false, "docker/dockerfile": false,
		"docker/dockerfile-upstream:master": false, "docker/dockerfile:1-labs": true,
		"registry.invalid/team/frontend:1 --x": true, "ghcr.io/docker/dockerfile:1": true,
	} {
		t.Run(syntax, func(t *testing.T) {
			t.Parallel()
			in := parameters(project(t, map[string]string{
				"Dockerfile": "# syntax=" + syntax + "\nFROM busybox:1\n",
			}), r)
			end := run(t, t.Context(), in)
			if end.err != nil {
				t.Fatal(end.err)
			}
			if got := strings.Contains(end.output, "is not used: the built-in frontend"); got != told {
				t.Errorf("told: %t, want %t\n%s", got, told, end.output)
			}
			in = parameters(project(t, map[string]string{
				"Dockerfile": "# syntax=" + syntax + "\nFROM busybox:1\nRUN --x true\n",
			}), r)
			end = fail(t, in, outcome.DockerfileInvalid, "line 3", "--x")
			if got := strings.Contains(outcome.Of(end.err).Hint, "of line 1"); got != told {
				t.Errorf("the hint is %q", outcome.Of(end.err).Hint)
			}
		})
	}
}

// Build arguments that nothing takes are told, as by Docker, and do no harm.
func TestUnusedArguments(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	in := parameters(project(t, map[string]string{
		"Dockerfile": "ARG GLOBAL=1\nFROM busybox:1 AS base\nONBUILD ARG LATER\n" +
			"FROM scratch AS unbuilt\nARG ELSEWHERE\nFROM base\nARG VERSION OTHER=1\nENV ENVIRONMENT=1\n",
	}), r)
	in.BuildArgs = named(
		"GLOBAL", "1", "LATER", "1", "ELSEWHERE", "1", "VERSION", "1", "OTHER", "1", "HTTP_PROXY", "", "no_proxy", "*",
		"SOURCE_DATE_EPOCH", "1", "TARGETPLATFORM", "linux/amd64", "BUILDARCH", "amd64", "TARGETSTAGE", "x",
		"BUILDKIT_INLINE_CACHE", "1", "BUILDKIT_SANDBOX_HOSTNAME", "h",
	)
	end := run(t, t.Context(), in)
	if end.err != nil || strings.Contains(end.output, "not consumed") {
		t.Errorf("%v\n%s", end.err, end.output)
	}
	unused := named("version", "1", "ENVIRONMENT", "1", "Global", "1", "NONE", "1", "NONE", "2")
	in.BuildArgs = append(in.BuildArgs, unused...)
	end = run(t, t.Context(), in)
	const want = "One or more build-args [version ENVIRONMENT Global NONE] were not consumed"
	if end.err != nil || strings.Count(end.output, want) != 1 ||
		!strings.Contains(end.output, "instead of version, it has VERSION") {
		t.Errorf("%v\n%s", end.err, end.output)
	}
}

// A device that RUN can do without is told.
func TestDevices(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	in := parameters(project(t, map[string]string{
		"Dockerfile": "FROM busybox:1\nRUN --device=vendor.com/gpu=all true\n",
	}), r)
	end := run(t, t.Context(), in)
	if end.err != nil || !strings.Contains(end.output, "level=WARN") || !strings.Contains(end.output, "line 2") ||
		!strings.Contains(end.output, "vendor.com/gpu=all") {
		t.Errorf("%v\n%s", end.err, end.output)
	}
}

// A stage that starts from another has its environment, by whatever name it says so.
func TestInheriting(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		head, from string
		args       []string
		platform   string
		machine    string
		want       int // the stage that it starts from: "builder", "linux-amd64" or "linux-arm64"; -1: an image
	}{
		"name":                       {from: "builder", want: 0},
		"image":                      {from: "busybox:1", want: -1},
		"variable":                   {head: "ARG BASE=builder", from: "${BASE}", want: 0},
		"variable without braces":    {head: "ARG BASE=builder", from: "$BASE", want: 0},
		"variable in quotes":         {head: "ARG BASE=\"builder\"", from: `"$BASE"`, want: 0},
		"variable that is an image":  {head: "ARG BASE=busybox:1", from: "${BASE}", want: -1},
		"default":                    {from: "${BASE:-builder}", want: 0},
		"default that is not needed": {head: "ARG BASE=busybox:1", from: "${BASE:-builder}", want: -1},
		"alternative":                {head: "ARG X=1", from: "${X:+builder}", want: 0},
		"prefix cut off":             {head: "ARG BASE=my-builder", from: "${BASE#my-}", want: 0},
		"suffix cut off":             {head: "ARG BASE=builder:1", from: "${BASE%:*}", want: 0},
		"replaced":                   {head: "ARG BASE=maker", from: "${BASE/mak/build}", want: 0},
		"part of a name":             {head: "ARG ER=er", from: "build$ER", want: 0},
		"given": {
			head: "ARG BASE=busybox:1",
			from: "$BASE",
			args: []string{"BASE", "builder"},
			want: 0,
		},
		"given without a default": {head: "ARG BASE", from: "$BASE", args: []string{"BASE", "builder"}, want: 0},
		"given, an image": {
			head: "ARG BASE=builder",
			from: "$BASE",
			args: []string{"BASE", "busybox:1"},
			want: -1,
		},
		"given, but not declared": {from: "${BASE:-busybox:1}", args: []string{"BASE", "builder"}, want: -1},
		"of another argument":     {head: "ARG X=build\nARG BASE=${X}er", from: "$BASE", want: 0},
		"of another that is given": {
			head: "ARG X=none\nARG BASE=${X}er",
			from: "$BASE",
			args: []string{"X", "build"},
			want: 0,
		},
		"several in one ARG": {head: "ARG X=build BASE=${X}er", from: "$BASE", want: 0},
		"a later ARG wins":   {head: "ARG BASE=busybox:1\nARG BASE=builder", from: "$BASE", want: 0},
		"number":             {from: "0", want: -1}, // to FROM, it is an image
		"with a platform":    {from: "--platform=$BUILDPLATFORM builder", want: 0},
		"by the machine":     {from: "linux-$TARGETARCH", machine: "amd64", want: 1},
		"by another machine": {from: "linux-${TARGETARCH}", machine: "arm64", want: 2},
		"by the platform": {
			from:     "${TARGETOS}-$TARGETARCH",
			machine:  "amd64",
			platform: "linux/arm64/v8",
			want:     2,
		},
		"by the builder's platform": {from: "linux-$BUILDARCH", machine: "amd64", platform: "linux/arm64", want: 1},
		"by a platform that is given": {
			from:    "linux-$TARGETARCH",
			machine: "amd64",
			args:    []string{"TARGETARCH", "arm64"},
			want:    2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &source{name: "Dockerfile", original: []byte(test.head + "\nFROM busybox:1 AS Builder\n" +
				"FROM busybox:1 AS linux-amd64\nFROM busybox:1 AS linux-arm64\nFROM " + test.from + "\n")}
			in := Parameters{BuildEnv: named("A", "1"), BuildArgs: named(test.args...), Platform: test.platform}
			if err := s.parse(in); err != nil {
				t.Fatal(err)
			}
			if test.machine != "" {
				if err := s.setEnvironment(in, ocispec.Platform{OS: "linux", Architecture: test.machine}); err != nil {
					t.Fatal(err)
				}
			}
			if got := s.views[0].inherits[3]; got != test.want {
				t.Errorf("it starts from stage %d, want %d", got, test.want)
			}
			want := 3
			if test.want < 0 {
				want = 4
			}
			if got := strings.Count(string(s.text), "ENV A="); got != want {
				t.Errorf("the environment is set %d times, want %d:\n%s", got, want, s.text)
			}
		})
	}
	t.Run("build", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		in := parameters(project(t, map[string]string{
			"Dockerfile": "ARG X=build\nARG BASE=${X}er\nFROM busybox:1 AS Builder\nENV A=own\n" +
				"FROM ${BASE}\nRUN echo $A > /a\n",
		}), r)
		in.BuildEnv = named("A", "parameter")
		if got := succeed(t, in).files["a"]; got != "own\n" {
			t.Errorf("RUN sees %q", got)
		}
	})
}
