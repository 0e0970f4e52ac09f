package parameters

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/fuzztest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/schemas"
)

type pair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type build struct {
	DockerContext   string `json:"docker-context"`
	BuildEnv        []pair `json:"build-env"`
	NoCache         bool   `json:"no-cache"`
	SourceDateEpoch int64  `json:"source-date-epoch"`
	Workspace       string `json:"workspace"`
}

func TestParse(t *testing.T) {
	defaults := build{DockerContext: ".", BuildEnv: []pair{}, SourceDateEpoch: -1, Workspace: "/mnt/vol"}
	with := func(change func(*build)) build {
		b := defaults
		change(&b)
		return b
	}
	tests := []struct {
		name    string
		args    []string
		environ []string
		want    build
	}{
		{"nothing given", nil, nil, defaults},
		{"a variable", nil, []string{"DOCKER_CONTEXT=app"}, with(func(b *build) { b.DockerContext = "app" })},
		{"a flag with =", []string{"--docker-context=app"}, nil, with(func(b *build) { b.DockerContext = "app" })},
		{"a flag and its value", []string{"--docker-context", "app"}, nil,
			with(func(b *build) { b.DockerContext = "app" })},
		{"a value that looks like a flag", []string{"--docker-context", "--app"}, nil,
			with(func(b *build) { b.DockerContext = "--app" })},
		{"a value with =", []string{"--docker-context=a=b"}, nil, with(func(b *build) { b.DockerContext = "a=b" })},
		{"the flag wins", []string{"--docker-context=flag"}, []string{"DOCKER_CONTEXT=variable"},
			with(func(b *build) { b.DockerContext = "flag" })},
		{"the last variable wins, as for exec", nil, []string{"DOCKER_CONTEXT=a", "DOCKER_CONTEXT=b"},
			with(func(b *build) { b.DockerContext = "b" })},
		{"empty is not given", nil, []string{"DOCKER_CONTEXT=", "NO_CACHE=", "BUILD_ENV="}, defaults},
		{"a bare boolean", []string{"--no-cache"}, nil, with(func(b *build) { b.NoCache = true })},
		{"a boolean as OpenChoreo writes it", nil, []string{"NO_CACHE=true"},
			with(func(b *build) { b.NoCache = true })},
		{"a large number as OpenChoreo writes it", nil, []string{"SOURCE_DATE_EPOCH=1.767225600e+09"},
			with(func(b *build) { b.SourceDateEpoch = 1767225600 })},
		{"a number where text is wanted", nil, []string{"DOCKER_CONTEXT=1e+06"},
			with(func(b *build) { b.DockerContext = "1e+06" })},
		{"a list where text is wanted", nil, []string{"DOCKER_CONTEXT=[1,2]"},
			with(func(b *build) { b.DockerContext = "[1,2]" })},
		{"null where text is wanted", nil, []string{"DOCKER_CONTEXT=null"},
			with(func(b *build) { b.DockerContext = "null" })},
		{"null where a list is wanted", nil, []string{"BUILD_ENV=null"}, defaults},
		{"a list", nil, []string{`BUILD_ENV=[{"name":"A","value":"\u003cb\u003e"}]`},
			with(func(b *build) { b.BuildEnv = []pair{{"A", "<b>"}} })},
		{
			"numbers and booleans as values of variables", nil,
			[]string{
				`BUILD_ENV=[{"name":"PORT","value":8080},{"name":"BIG","value":1000000},{"name":"ON","value":true}]`,
			},
			with(func(b *build) { b.BuildEnv = []pair{{"PORT", "8080"}, {"BIG", "1000000"}, {"ON", "true"}} }),
		},
		{"a text in base64", nil,
			[]string{"DOCKER_CONTEXT=base64:" + base64.StdEncoding.EncodeToString([]byte("{{inputs.parameters.x}}/é"))},
			with(func(b *build) { b.DockerContext = "{{inputs.parameters.x}}/é" })},
		{"a text that begins with base64:, in base64", nil,
			[]string{"DOCKER_CONTEXT=base64:" + base64.StdEncoding.EncodeToString([]byte("base64:"))},
			with(func(b *build) { b.DockerContext = "base64:" })},
		{"base64 later in a text", nil, []string{"DOCKER_CONTEXT=a/base64:b"},
			with(func(b *build) { b.DockerContext = "a/base64:b" })},
		{"base64 of nothing", nil, []string{"DOCKER_CONTEXT=base64:"}, defaults},
		{"a flag in base64", []string{"--docker-context=base64:YXBw"}, nil,
			with(func(b *build) { b.DockerContext = "app" })},
		{"texts of a list in base64", nil,
			[]string{`BUILD_ENV=[{"name":"base64:QQ==","value":"base64:e3tifX0="},{"name":"C","value":"d"}]`},
			with(func(b *build) { b.BuildEnv = []pair{{"A", "{{b}}"}, {"C", "d"}} })},
		{"names of a list in base64", nil, []string{`BUILD_ENV=[{"base64:bmFtZQ==":"A","value":"b"}]`},
			with(func(b *build) { b.BuildEnv = []pair{{"A", "b"}} })},
		{
			"a list in base64 as a whole has no base64 inside", nil,
			[]string{
				"BUILD_ENV=base64:" + base64.StdEncoding.EncodeToString([]byte(`[{"name":"A","value":"base64:YXBw"}]`)),
			},
			with(func(b *build) { b.BuildEnv = []pair{{"A", "base64:YXBw"}} }),
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			set, err := Parse(schemas.MustLoad("containerfile-build"), test.args, test.environ)
			if err != nil {
				t.Fatal(err)
			}
			var got build
			set.DecodeKnown(&got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseListsEveryFault(t *testing.T) {
	tests := []struct {
		name    string
		args    []string
		environ []string
		want    []string
	}{
		{"a list that is text", nil, []string{"BUILD_ENV=A=b"}, []string{"build-env: expected array, but got string"}},
		{"two documents", nil, []string{"BUILD_ENV=[] []"}, []string{"build-env: expected array, but got string"}},
		{"null in a list", nil, []string{`BUILD_ENV=[{"name":"A","value":null}]`},
			[]string{"build-env[0].value: expected string, but got null"}},
		{"broken base64", nil, []string{"DOCKER_CONTEXT=base64:e3s", `BUILD_ENV=[{"name":"A","value":"base64:!"}]`},
			[]string{
				`docker-context: begins with "base64:" and does not go on in base64: illegal base64 data`,
				`build-env: [0]: value: begins with "base64:" and`,
			}},
		{"base64 of no text", nil, []string{"DOCKER_CONTEXT=base64:/w=="},
			[]string{`docker-context: begins with "base64:" and does not go on with the base64 of a text`}},
		{"a misspelt flag", []string{"--dockerfile", "x"}, nil,
			[]string{"--dockerfile: there is no such flag (did you mean --dockerfile-path?)"}},
		{"a word", []string{"build"}, nil, []string{`"build" is not a flag`}},
		{"a flag without its value", []string{"--target"}, nil, []string{"--target: needs a value"}},
		{
			"all at once", []string{"--docker-contxt=x", "--no-cache=perhaps"},
			[]string{"SOURCE_DATE_EPOCH=yesterday", "PROVENANCE=all", "MAX_ATTEMPTS=0"},
			[]string{
				"--docker-contxt: there is no such flag (did you mean --docker-context?)",
				"source-date-epoch: expected integer, but got string",
				"provenance: value must be one of",
				"no-cache: expected boolean, but got string",
				"max-attempts: must be >= 1 but found 0",
			},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Parse(schemas.MustLoad("containerfile-build"), test.args, test.environ)
			if got := outcome.Of(err).Reason; got != outcome.InvalidParameters {
				t.Fatalf("reason %s, want %s", got, outcome.InvalidParameters)
			}
			lines := strings.Split(err.Error(), "\n  - ")
			if len(test.want) > 1 {
				lines = lines[1:]
			}
			if !slices.EqualFunc(lines, test.want, strings.HasPrefix) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(lines, "\n  "), strings.Join(test.want, "\n  "))
			}
		})
	}
}

func TestHelpTellsOfEveryProperty(t *testing.T) {
	for _, name := range schemas.Names() {
		set, err := Parse(schemas.MustLoad(name), []string{"--no-such-flag", "--help"}, nil)
		if !errors.Is(err, ErrHelp) {
			t.Fatalf("%s: %v", name, err)
		}
		help := set.Help()
		for _, p := range schemas.MustLoad(name).Properties {
			given := "  --" + p.Name + ", " + schemas.EnvName(p.Name)
			if p.WriteOnly {
				given = "\n  " + schemas.EnvName(p.Name)
			}
			if !strings.Contains(help, given) || p.WriteOnly && strings.Contains(help, "--"+p.Name+",") {
				t.Errorf("%s: no %q", name, given)
			}
		}
		for line := range strings.Lines(help) {
			if len([]rune(line)) > 160 {
				t.Errorf("%s: long line: %s", name, line)
			}
		}
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	schema := schemas.MustLoad("checkout-source")
	schema.Properties[1].WriteOnly = true // branch
	set, err := Parse(schema, []string{"--git-repo=https://token@git.example.com/a?key=b"}, []string{"BRANCH=hunter22"})
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Secrets(); !slices.Equal(got, []string{"hunter22"}) {
		t.Errorf("secrets: %q", got)
	}
	if diff := cmp.Diff([]any{"git-repo", "https://git.example.com/a"}, set.Effective()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A command line is in every list of processes, so no step takes a secret there, and what was put there by mistake is
// not repeated.
func TestNoSecretOnACommandLine(t *testing.T) {
	secrets := 0
	for _, name := range schemas.Names() {
		schema := schemas.MustLoad(name)
		for _, p := range schema.Properties {
			if strings.Contains(p.Name, "secret") && p.Type == "string" && !p.WriteOnly &&
				!strings.Contains(p.Name, "file") && !strings.HasSuffix(p.Name, "-dir") &&
				!strings.HasSuffix(p.Name, "-hosts") && !strings.Contains(p.Description, "file") &&
				name != "dockerfile-builder" {
				t.Errorf("%s: %s is not writeOnly and names no file", name, p.Name)
			}
			if !p.WriteOnly {
				continue
			}
			secrets++
			for _, args := range [][]string{
				{"--" + p.Name + "=hunter22"},
				{"--" + p.Name, "hunter22"},
				{"--" + p.Name, "--hunter22"},
			} {
				set, err := Parse(schema, args, nil)
				if err == nil || !strings.Contains(err.Error(), "--"+p.Name+": is a secret") ||
					!strings.Contains(err.Error(), schemas.EnvName(p.Name)) ||
					strings.Contains(err.Error(), "hunter22") {
					t.Errorf("%s %q: %v", name, args, err)
				}
				if slices.Contains(set.Secrets(), "hunter22") {
					t.Errorf("%s %q: was taken", name, args)
				}
			}
		}
	}
	if secrets == 0 {
		t.Error("no property is writeOnly: this tests nothing")
	}
}

// No text makes it panic, and an accepted value is of the type that the schema names.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[1, 2]", "1e+06", "true", `[{"name":"A","value":1}]`, `{"a":`, "A=b", "[[[", "\x00", "1e999",
		"base64:YXBw",
		`["base64:YXBw"]`,
	} {
		f.Add("build-env", seed)
		f.Add("source-date-epoch", seed)
		f.Add("no-cache", seed)
	}
	schema := schemas.MustLoad("containerfile-build")
	f.Fuzz(func(t *testing.T, property, text string) {
		flag := []string{"--" + property + "=" + text}
		var set *Set
		var err error
		fuzztest.Of(4, 4).Bound(t, len(property)+len(text), func() {
			set, err = Parse(schema, flag, []string{schemas.EnvName(property) + "=" + text, property})
		})
		if errors.Is(err, ErrHelp) {
			return
		}
		if err != nil {
			if outcome.Of(err).Reason != outcome.InvalidParameters {
				t.Errorf("reason %s", outcome.Of(err).Reason)
			}
			return
		}
		raw, err := json.Marshal(set.values)
		if err != nil {
			t.Fatal(err)
		}
		var back map[string]any
		if err := json.Unmarshal(raw, &back); err != nil {
			t.Fatal(err)
		}
		if faults := schema.Validate(back); len(faults) > 0 {
			t.Errorf("%q passed and then did not: %v", text, faults)
		}
	})
}
