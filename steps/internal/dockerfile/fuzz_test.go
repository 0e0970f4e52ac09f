package dockerfile

import (
	"bytes"
	"path"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// What is read of a Dockerfile before the builder starts: an error, or a text that BuildKit can read.
func FuzzDockerfile(f *testing.F) {
	for _, seed := range []string{
		"FROM busybox\nRUN echo a\n", "# syntax=docker/dockerfile:1\n# escape=`\n" +
			"ARG A=b\nFROM x:${A:-c} AS y\nENV A=$A B=`\n c\n",
		"FROM --platform=$BUILDPLATFORM a AS b\nRUN --mount=type=cache,target=/c,from=b <<EOF\nx\nEOF\n" +
			"FROM b\nCOPY --from=b / /\n",
		"FROM a\nONBUILD RUN x\nSHELL [\"a\"]\nHEALTHCHECK CMD a\nADD https://example.com/a /\n",
		"\ufeffFROM scratch\r\nCOPY . .\r\n",
	} {
		f.Add([]byte(seed), "target")
		f.Add(fuzztest.Long([]byte(seed)), "target")
	}
	f.Fuzz(func(t *testing.T, text []byte, target string) {
		// BuildKit's own parser reads a here-document anew for each instruction.
		fuzztest.Of(32, 64).Bound(t, len(text), func() {
			s := &source{name: "Dockerfile", original: text}
			in := Parameters{Target: target, BuildEnv: []step.NameValue{
				{Name: "NAME", Value: "value"}, {Name: "OTHER", Value: "$x 'y'"},
			}}
			if s.parse(in) != nil {
				return
			}
			if _, err := parser.Parse(bytes.NewReader(s.text)); err != nil {
				t.Errorf("with the build environment it is none: %v\n%q\nof %q", err, s.text, text)
			}
			s.warnings(in)
			s.unused(in)
		})
	})
}

// FuzzIgnore: .dockerignore: its patterns end, whatever the path is.
func FuzzIgnore(f *testing.F) {
	f.Add([]byte("*.md\n!README.md\n**/node_modules\n"), "a/node_modules/b")
	f.Add([]byte("\ufeffa\n[a-\n\\\n!\n"), "a")
	f.Fuzz(func(t *testing.T, text []byte, file string) {
		if len(text) > 4<<10 || len(file) > 1<<10 { // each rule is a regular expression, and tried with each folder
			return
		}
		fuzztest.Of(32, 64).Bound(t, len(text)+len(file), func() {
			if ignore, err := parseIgnore(".dockerignore", text); err == nil {
				ignore.leavesOut(path.Clean(file))
			}
		})
	})
}
