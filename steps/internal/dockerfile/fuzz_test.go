package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"

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
	laughs := fuzztest.Laughs(func(name, twice int) string {
		return fmt.Sprintf("ARG a%d=${a%d}${a%d}\n", name, twice, twice)
	})
	f.Add([]byte("ARG a0=ha\n"+laughs+"FROM x:$a25\nARG a25\nENV a=$a25\n"), "")
	laughs = "FROM x\nENV a0=ha\n" + strings.ReplaceAll(laughs, "ARG", "ENV")
	f.Add([]byte(laughs+"RUN --mount=type=cache,target=$a25 x\n"), "")
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

// FuzzCache: a cache of layers, which all who may push can write: what is taken has digests, sizes, and its layers in
// the manifest.
func FuzzCache(f *testing.F) {
	sum := "sha256:" + strings.Repeat("a1", 32)
	blob := `{"mediaType":"a/b","digest":"` + sum + `","size":7}`
	f.Add(
		[]byte(`{"config":`+blob+`,"layers":[{"digest":"`+sum+`","size":7}],"dated":[{"digest":"`+sum+`","size":7,`+
			`"was":"`+sum+`","diffID":"`+sum+`"}]}`), []byte(`{"layers":[`+blob+`,`+blob+`]}`),
	)
	f.Add([]byte(`{"config":`+blob+`,"layers":[{"digest":"`+sum+`","size":-1,"from":"h/r@`+sum+`"}]}`),
		[]byte(`{"layers":[`+blob+`]}`))
	f.Add([]byte(`{}`), []byte(`{"layers":[null]}`))
	f.Fuzz(func(t *testing.T, metadata, manifest []byte) {
		fuzztest.Of(4, 4).Bound(t, len(metadata)+len(manifest), func() {
			taken := &takenCache{layers: map[digest.Digest]cacheLayer{}, dated: map[digest.Digest]datedLayer{}}
			var listed v1.Manifest
			if json.Unmarshal(metadata, &taken.metadata) != nil || json.Unmarshal(manifest, &listed) != nil ||
				taken.check(listed) != nil {
				return
			}
			for name, layer := range taken.layers {
				if name.Validate() != nil || layer.Size <= 0 {
					t.Errorf("layer %q of %d bytes is taken", name, layer.Size)
				}
			}
		})
	})
}
