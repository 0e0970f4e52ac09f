package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every property tells a stranger all there is to know about it: help, documentation and the portal's forms are made
// from this.
func TestEveryPropertyIsDescribed(t *testing.T) {
	for _, name := range Names() {
		s := MustLoad(name)
		if s.Title == "" || s.Description == "" {
			t.Errorf("%s: needs a title and a description", name)
		}
		var check func(at string, ps []*Property)
		check = func(at string, ps []*Property) {
			for _, p := range ps {
				at := at + "." + p.Name
				if p.Title == "" || p.Description == "" || len(p.Examples) == 0 {
					t.Errorf("%s: needs a title, a description and an example", at)
				}
				if !strings.HasSuffix(p.Description, ".") {
					t.Errorf("%s: the description is not a sentence: %q", at, p.Description)
				}
				if strings.Count(at, ".") == 1 && p.Default == nil && !p.Required {
					t.Errorf("%s: is neither required nor has a default", at)
				}
				if p.Type == "" {
					t.Errorf("%s: has no type", at)
				}
				check(at, p.Properties)
				if p.Items != nil {
					check(at+"[]", p.Items.Properties)
				}
			}
		}
		check(name, s.Properties)
	}
}

// Defaults and examples are values that the schema itself allows.
func TestDefaultsAndExamplesAreValid(t *testing.T) {
	for _, name := range Names() {
		s := MustLoad(name)
		whole := map[string]any{}
		for _, p := range s.Properties {
			if len(p.Examples) > 0 {
				whole[p.Name] = p.Examples[0]
			}
		}
		if name == "generate-workload-cr" {
			whole["dry-run"] = false
		}
		if faults := s.Validate(s.WithDefaults(whole)); len(faults) > 0 {
			t.Errorf("%s: %v", name, faults)
		}
		for _, p := range s.Properties {
			for _, v := range append(p.Examples, p.Default) {
				if v == nil {
					continue
				}
				for _, f := range s.Validate(map[string]any{p.Name: v}) {
					if len(f.Path) > 0 && f.Path[0] == p.Name {
						t.Errorf("%s: %s does not allow %v: %s", name, p.Name, v, f)
					}
				}
			}
		}
	}
}

func TestValidateListsEveryFault(t *testing.T) {
	tests := []struct {
		name, schema, value string
		want                []string // beginnings, in order
	}{
		{"all well", "dockerfile-builder", `{"repository":{"url":"https://git.example.com/a.git"}}`, nil},
		{"nothing given", "dockerfile-builder", `{}`, []string{"repository: is required"}},
		{
			"three faults", "dockerfile-builder",
			`{"repository":{"url":"","revision":{"commit":"xyz"}},"buildEnv":"A=b"}`,
			[]string{"repository.url: must not be empty", "repository.revision.commit: does not have the right form",
				"buildEnv: expected array, but got string"},
		},
		{
			"inside a list", "dockerfile-builder",
			`{"repository":{"url":"https://h/r"},"buildArgs":[{"name":"A","value":"b"},{"name":"1A","value":"b"},` +
				`{"value":"c"}]}`,
			[]string{"buildArgs[1].name: does not have the right form", "buildArgs[2].name: is required"},
		},
		{
			"unknown names", "dockerfile-builder",
			`{"repository":{"url":"https://h/r","Branch":"x"},"dokcer":{}}`,
			[]string{
				"repository.Branch: is not a parameter (there are url, secretRef, revision, appPath, submodules, lfs)",
				"dokcer: is not a parameter",
			},
		},
		{
			"build secrets", "dockerfile-builder",
			`{"repository":{"url":"https://h/r"},"buildSecrets":[{"name":"npmrc","secretRef":"npm"},` +
				`{"name":"..","secretRef":"npm"},{"name":"npmrc","secretRef":"Other"},{"name":"pip"},` +
				`{"name":"npmrc","secretRef":"npm","key":"a b"}]}`,
			[]string{
				"buildSecrets[1].name: does not have the right form (The id by which ",
				`buildSecrets[2].name: "npmrc" is also the name of [0]`,
				"buildSecrets[2].secretRef: does not have the right form", "buildSecrets[3].secretRef: is required",
				`buildSecrets[4].name: "npmrc" is also the name of [0]`,
				"buildSecrets[4].key: does not have the right form",
			},
		},
		{
			"too many build secrets", "dockerfile-builder",
			`{"repository":{"url":"https://h/r"},"buildSecrets":[` +
				strings.Repeat(`{"name":"a","secretRef":"a"},`, 8) + `{"name":"b","secretRef":"b"}]}`,
			append([]string{"buildSecrets: maximum 8 items required, but found 9 items"},
				slices.Repeat([]string{"buildSecrets["}, 7)...),
		},
		{"names in common where they may be", "dockerfile-builder",
			`{"repository":{"url":"https://h/r"},"labels":[{"name":"a","value":"1"},{"name":"a","value":"2"}]}`, nil},
		{"a password in the URL", "dockerfile-builder", `{"repository":{"url":"https://me:secret@h/r"}}`,
			[]string{"repository.url: does not have the right form"}},
		{"a user in the URL", "dockerfile-builder",
			`{"repository":{"url":"https://acme@dev.azure.com/acme/shop/_git/cart"}}`, nil},
		{"scp-like", "dockerfile-builder", `{"repository":{"url":"git@github.com:acme/cart.git"}}`, nil},
		{"scp-like with an absolute path", "dockerfile-builder",
			`{"repository":{"url":"git@github.com:/srv/cart.git"}}`, nil},
		{"a program as transport", "dockerfile-builder", `{"repository":{"url":"ext::sh -c id"}}`,
			[]string{"repository.url: does not have the right form"}},
		{"a local path", "dockerfile-builder", `{"repository":{"url":"/etc"}}`,
			[]string{"repository.url: does not have the right form"}},
		{
			"a last step that is to call the API", "generate-workload-cr",
			`{"namespace-name":"a","project-name":"b","component-name":"c","image":"i","dry-run":false,` +
				`"api-server-url":"","oauth-token-url":"https://idp/token"}`,
			[]string{"oauth-client-id: is required", "api-server-url: must not be empty"},
		},
		{
			"a last step without an image", "generate-workload-cr",
			`{"namespace-name":"a","project-name":"b","component-name":"c","image":"","image-file":"","dry-run":true}`,
			[]string{
				"image: must not be empty (Reference of the published image, best with its digest. Required without ",
			},
		},
		{
			"a last step with a token and the image in a file", "generate-workload-cr",
			`{"namespace-name":"a","project-name":"b","component-name":"c","image":"","image-file":"f",` +
				`"dry-run":false,"token-file":"t","api-server-url":"https://api"}`,
			nil,
		},
		{
			"a last step that is not", "generate-workload-cr",
			`{"namespace-name":"a","project-name":"b","component-name":"c","image":"i","dry-run":true,` +
				`"api-server-url":""}`,
			nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var value any
			if err := json.Unmarshal([]byte(test.value), &value); err != nil {
				t.Fatal(err)
			}
			faults := MustLoad(test.schema).Validate(value)
			if len(faults) != len(test.want) {
				t.Fatalf("got %d faults %q, want %d", len(faults), faults, len(test.want))
			}
			for i, f := range faults {
				if !strings.HasPrefix(f.String(), test.want[i]) {
					t.Errorf("fault %d is %q, want %q…", i, f, test.want[i])
				}
				if strings.Contains(f.String(), "secret@") {
					t.Errorf("the fault tells the password: %s", f)
				}
			}
		})
	}
}

func TestWithDefaultsReachesEveryDepth(t *testing.T) {
	given := map[string]any{"repository": map[string]any{"url": "https://h/r"}}
	got := MustLoad("dockerfile-builder").WithDefaults(given)
	want := map[string]any{
		"repository": map[string]any{
			"url": "https://h/r", "secretRef": "", "appPath": ".",
			"revision": map[string]any{"branch": "main", "commit": ""}, "submodules": "", "lfs": "",
		},
		"docker":   map[string]any{"context": ".", "filePath": "./Dockerfile", "target": "", "platforms": []any{}},
		"buildEnv": []any{}, "buildArgs": []any{}, "timestamps": "", "labels": []any{}, "noCache": false,
		"buildSecrets": []any{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if len(given["repository"].(map[string]any)) != 1 {
		t.Error("the given object was changed")
	}
}

// Several goroutines may load schemas at a time; the race detector sees to it.
func TestLoadAtTheSameTime(t *testing.T) {
	for _, name := range slices.Concat(Names(), Names()) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if s, err := Load(name); err != nil || s.Name != name {
				t.Errorf("got %v (%v)", s, err)
			}
		})
	}
}

// A schema that is no file yet may refer to those that are, and wins over the one of its name.
func TestParse(t *testing.T) {
	const text = `{"title": "new", "properties": {
		"z": {"type": "string"}, "repository": {"$ref": "dockerfile-builder.schema.json#/properties/repository"}}}`
	for _, name := range []string{"not-there", "publish-image"} {
		s, err := Parse(name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != name || s.Title != "new" || len(s.Properties) != 2 || s.Properties[0].Name != "z" ||
			s.Properties[1].Properties[0].Name != "url" {
			t.Errorf("%s: got %+v", name, s)
		}
	}
	for about, text := range map[string]string{
		"no JSON": "{", "a reference to nothing": `{"$ref": "nothing.schema.json"}`,
	} {
		if _, err := Parse("not-there", []byte(text)); err == nil {
			t.Errorf("%s is taken", about)
		}
	}
}

func TestReasonsAreDistinct(t *testing.T) {
	codes := map[int]string{}
	for _, r := range Reasons() {
		if other, ok := codes[r.ExitCode]; ok {
			t.Errorf("%s and %s have the same exit code %d", r.Name, other, r.ExitCode)
		}
		codes[r.ExitCode] = r.Name
		if r.Summary == "" || r.Class == "" || (r.Hint == "" && r.Name != "Succeeded") {
			t.Errorf("%s: needs a summary, a class and a hint", r.Name)
		}
		if r.Name == "Killed" && r.ExitCode == 128+9 { // a shell means the same by it
			continue
		}
		if r.ExitCode < 0 || r.ExitCode > 130 || r.ExitCode == 126 || r.ExitCode == 127 {
			t.Errorf("%s: exit code %d means something else to a shell", r.Name, r.ExitCode)
		}
	}
	if got, ok := ReasonNamed("no such reason"); ok {
		t.Errorf("an unknown reason is %+v", got)
	}
}

func ExampleSchema_Validate() {
	for _, f := range MustLoad("publish-image").Validate(map[string]any{"registry": "https://registry.example.com"}) {
		fmt.Println(f.Parameter())
	}
	// Output:
	// registry
	// image-name
}

func TestEnvName(t *testing.T) {
	for property, want := range map[string]string{
		"git-repo": "GIT_REPO", "workspace": "WORKSPACE", "oauth-client-id": "OAUTH_CLIENT_ID",
	} {
		if got := EnvName(property); got != want {
			t.Errorf("%s: got %s, want %s", property, got, want)
		}
	}
}

// A key that no registry has would never match, and say nothing.
func TestMirrorsAreOfRegistries(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]bool{
		"docker.io": true, "DOCKER.IO": true, "https://docker.io": true, "https://index.docker.io/v1/": true,
		"localhost:5000": true, "[::1]:5000": true,
		"*": false, "*.example.com": false, "docker.io/library": false, "docker.io:": false, "": false, "a b": false,
	} {
		faults := MustLoad("containerfile-build").Validate(map[string]any{
			"registry-mirrors": []any{map[string]any{"registry": key, "mirror": "mirror.example.com"}},
		})
		faults = slices.DeleteFunc(faults, func(f Fault) bool {
			return !slices.Contains(f.Path, "registry-mirrors")
		})
		if got := len(faults) == 0; got != want {
			t.Errorf("%q is accepted: %t, want %t: %v", key, got, want, faults)
		}
	}
}
