package portal

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

func component(annotation, value string) string {
	return "apiVersion: openchoreo.dev/v1alpha1\nkind: Component\nmetadata:\n  name: cart\n  namespace: acme\n" +
		"  annotations:\n    " + annotation + ": '" + value +
		"'\nspec:\n  owner: {projectName: store}\n" +
		"  componentType: {kind: ClusterComponentType, name: deployment/service}\n"
}

func github(fields string) string {
	return "backstage:\n  baseUrl: https://portal.example.com\n  externalCI:\n    githubActions:\n" +
		"      enabled: true\n      oauth: {clientId: abc}\n" + fields
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const frame = "/api/auth/github/handler/frame"
	oauth := github("")
	cases := []struct {
		name, text, callback string
		want                 []string
	}{
		{name: "a job", text: component(JobAnnotation, "acme/cart")},
		{name: "a job in no folder", text: component(JobAnnotation, "cart")},
		{name: "a branch in folders", text: component(JobAnnotation, "acme/My Store/cart/feature%2Fpay")},
		{name: "a job of another Jenkins", text: component(JobAnnotation, "ci-2:acme/cart")},
		{name: "the path of a job", text: component(JobAnnotation, "/job/acme/job/cart"),
			want: []string{
				`a.yaml:7: Component acme/cart: metadata.annotations[jenkins.io/job-full-name]: ` +
					`"/job/acme/job/cart" is not the full name of a Jenkins job, which has the form folder/job; ` +
					`is acme/cart meant?`,
			}},
		{name: "the path without its slash", text: component(JobAnnotation, "job/acme/job/cart/"),
			want: []string{"is acme/cart meant?"}},
		{name: "a slash too many", text: component(JobAnnotation, "/acme/cart/"),
			want: []string{"is acme/cart meant?"}},
		{name: "a URL of a job", text: component(JobAnnotation, "https://jenkins.example.com/ci/job/acme/job/cart/"),
			want: []string{"is acme/cart meant?"}},
		{name: "a URL of a branch's run",
			text: component(JobAnnotation, "https://j.example/view/all/job/cart/job/feature%252Fpay/42/console"),
			want: []string{"is cart/feature%2Fpay meant?"}},
		{name: "an empty job", text: component(JobAnnotation, ""), want: []string{`"" is not the full name`}},
		{name: "a slug", text: component(SlugAnnotation, "acme/cart.js")},
		{name: "a URL of a repository", text: component(SlugAnnotation, "https://github.com/acme/cart.git"),
			want: []string{"a.yaml:7: ", "is acme/cart meant?"}},
		{name: "an SSH address", text: component(SlugAnnotation, "git@github.com:acme/cart.git"),
			want: []string{"is acme/cart meant?"}},
		{name: "a host before the slug", text: component(SlugAnnotation, "ghe.example.com/acme/cart"),
			want: []string{"is acme/cart meant?"}},
		{name: "a slug with .git", text: component(SlugAnnotation, "acme/cart.git"),
			want: []string{"is acme/cart meant?"}},
		{name: "only a repository", text: component(SlugAnnotation, "cart"),
			want: []string{`"cart" is not the name of a GitHub repository`}},

		{name: "a GitLab project", text: component(gitLabSlug, "acme/store/cart.js")},
		{name: "a URL of a GitLab project", text: component(gitLabSlug, "https://gitlab.com/acme/store/cart.git"),
			want: []string{"a.yaml:7: ", "is acme/store/cart meant?"}},
		{name: "an SSH address of a GitLab project", text: component(gitLabSlug, "git@gitlab.com:acme/cart.git"),
			want: []string{"is acme/cart meant?"}},
		{name: "only a GitLab project", text: component(gitLabSlug, "cart"), want: []string{"group/project"}},
		{name: "a number as a GitLab project", text: component(gitLabSlug, "4711"),
			want: []string{"belongs into gitlab.com/project-id"}},
		{name: "a GitLab project's number", text: component(gitLabID, "4711")},
		{name: "a path as a GitLab project's number", text: component(gitLabID, "acme/cart"),
			want: []string{"belongs into gitlab.com/project-slug"}},
		{name: "a GitLab", text: component(gitLabInstance, "gitlab.example.com")},
		{name: "a URL of a GitLab", text: component(gitLabInstance, "https://gitlab.example.com/"),
			want: []string{"is gitlab.example.com meant?"}},
		{name: "almost an annotation", text: component("jenkins.io/job-fullname", "acme/cart"),
			want: []string{"a.yaml:7: ", "is jenkins.io/job-full-name meant?"}},
		{name: "almost another", text: component("gitlab.com/projectId", "4711"),
			want: []string{"is gitlab.com/project-id meant?"}},
		{name: "another tool's annotation", text: component("github.com/stars", "5")},

		{name: "Jenkins",
			text: "backstage:\n  externalCI:\n" +
				"    jenkins: {enabled: true, baseUrl: 'https://jenkins.acme.example', username: portal}\n"},
		{name: "Jenkins that is off", text: "backstage:\n  externalCI:\n    jenkins: {enabled: false}\n"},
		{name: "Jenkins without anything", text: "backstage:\n  externalCI:\n    jenkins:\n      enabled: true\n",
			want: []string{
				"a.yaml:3: Values a.yaml: backstage.externalCI.jenkins: baseUrl is missing", "username is missing",
			}},
		{name: "Jenkins without a scheme",
			text: "backstage:\n  externalCI:\n    jenkins:\n      enabled: true\n" +
				"      baseUrl: jenkins.acme.example\n      username: portal\n",
			want: []string{"a.yaml:5: ", "is not the URL of a Jenkins"}},
		{name: "a job as Jenkins",
			text: "backstage:\n  externalCI:\n" +
				"    jenkins: {enabled: true, baseUrl: 'https://j.example/job/a', username: portal}\n",
			want: []string{"is the URL of a job"}},

		{name: "github.com", text: github("")},
		{name: "github.com with its API", text: github("      apiBaseUrl: https://api.github.com\n")},
		{name: "GitHub Enterprise Server",
			text: github("      host: ghe.example.com\n      apiBaseUrl: https://ghe.example.com/api/v3\n")},
		{name: "GHES without its API", text: github("      host: ghe.example.com\n"),
			want: []string{"a.yaml:7: ", "backstage.externalCI.githubActions.host: ghe.example.com without apiBaseUrl",
				"set apiBaseUrl to https://ghe.example.com/api/v3"}},
		{name: "the API of GHES without its host", text: github("      apiBaseUrl: https://ghe.example.com/api/v3\n"),
			want: []string{"a.yaml:7: ", "is not the API of github.com", "set host, too"}},
		{name: "the API of another host",
			text: github("      host: ghe.example.com\n      apiBaseUrl: https://other.example.com/api/v3\n"),
			want: []string{"a.yaml:8: ", "is not the API of ghe.example.com"}},
		{name: "a URL as host",
			text: github("      host: https://ghe.example.com/\n      apiBaseUrl: https://ghe.example.com/api/v3\n"),
			want: []string{"neither scheme nor path"}},

		{name: "GitHub without an OAuth App",
			text: "backstage:\n  externalCI:\n    githubActions:\n      enabled: true\n",
			want: []string{"a.yaml:3: Values a.yaml: backstage.externalCI.githubActions: oauth.clientId is missing"}},
		{name: "GitHub with an empty one",
			text: "backstage:\n  externalCI:\n    githubActions: {enabled: true, oauth: {clientId: ''}}\n",
			want: []string{"oauth.clientId is missing"}},
		{name: "GitHub that is off", text: "backstage:\n  externalCI:\n    githubActions: {enabled: false}\n"},
		{name: "a placeholder",
			text: "backstage:\n  externalCI:\n    githubActions: {oauth: {clientId: <your-client-id>}}\n",
			want: []string{"is not the client ID of an OAuth App"}},
		{name: "a key in other letters",
			text: "backstage:\n  externalCI:\n    githubActions:\n      enabled: true\n      oAuth: {clientId: abc}\n",
			want: []string{"a.yaml:5: ", "githubActions.oAuth: the chart has no such value; is oauth meant?"}},
		{name: "a key without a letter", text: "backstage:\n  externalCI:\n    jenkin: {enabled: true}\n",
			want: []string{"a.yaml:3: ", "is jenkins meant?"}},
		{name: "a CI that the chart does not have", text: "backstage:\n  externalCI:\n    gitlab: {enabled: true}\n",
			want: []string{"a.yaml:3: ", "there is githubActions, jenkins"}},
		{name: "a key of another CI",
			text: "backstage:\n  externalCI:\n    jenkins: {enabled: false, token: x}\n",
			want: []string{"there is baseUrl, enabled, username"}},
		{name: "externalCI in other letters", text: "backstage:\n  externalCi: {jenkins: {enabled: true}}\n",
			want: []string{"a.yaml:2: ", "is externalCI meant?"}},
		{name: "backstage in other letters", text: "Backstage:\n  externalCI: {}\n",
			want: []string{"a.yaml:1: ", "is backstage meant?"}},
		{name: "a value of a later chart", text: "backstage:\n  quotas: {}\n  auth: {redirectUrls: []}\n"},
		{name: "almost a value", text: "backstage:\n  auth: {redirectURLs: []}\n",
			want: []string{"is redirectUrls meant?"}},

		{name: "a callback", text: oauth, callback: "https://portal.example.com" + frame},
		{name: "a callback of another form", text: oauth, callback: "https://portal.example.com/oauth/callback",
			want: []string{
				`--github-callback-url: "https://portal.example.com/oauth/callback" does not have the form ` +
					`https://portal.example.com` + frame,
			}},
		{name: "a callback of another portal", text: oauth, callback: "https://old.example.com" + frame,
			want: []string{"a.yaml:2: ", "but the OAuth App has https://old.example.com"}},
		{name: "redirects",
			text: "backstage:\n  baseUrl: https://portal.example.com/\n  auth:\n    redirectUrls:\n" +
				"    - https://portal.example.com/api/auth/openchoreo-auth/handler/frame\n" +
				"    - https://portal.example.com/callback\n" +
				"    - https://old.example.com/api/auth/github/handler/frame\n",
			want: []string{
				`a.yaml:6: Values a.yaml: backstage.auth.redirectUrls[1]: "https://portal.example.com/callback" does ` +
					`not have the form of a callback URL of the portal`,
				`a.yaml:7: Values a.yaml: backstage.auth.redirectUrls[2]: ` +
					`"https://old.example.com/api/auth/github/handler/frame" is not of the portal at backstage.baseUrl`,
			}},
		{name: "another type", text: "backstage:\n  externalCI: [jenkins]\n",
			want: []string{"a.yaml:2: Values a.yaml: backstage.externalCI: must be a mapping, but is read as array"}},
		{name: "a number as a name",
			text: "backstage:\n  externalCI:\n    jenkins:\n      username: 0123\n",
			want: []string{"a.yaml:4: ", "jenkins.username: must be text, but is read as number: put it in quotes"}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			set := read(tc.text)
			if len(set.Faults) > 0 || len(set.Objects)+len(set.Values) != 1 {
				t.Fatalf("%v of %d", set.Faults, len(set.Objects))
			}
			var text strings.Builder
			faults := Check(set, tc.callback)
			for _, f := range faults {
				text.WriteString(f.String() + "\n")
			}
			if len(tc.want) == 0 && len(faults) > 0 || len(tc.want) > 0 && len(faults) == 0 {
				t.Errorf("faults:\n%s", &text)
			}
			for _, want := range tc.want {
				if !strings.Contains(text.String(), want) {
					t.Errorf("no %q in:\n%s", want, &text)
				}
			}
		})
	}
}

func TestCallbackURL(t *testing.T) {
	for text, want := range map[string]string{
		github(""): "https://portal.example.com" + callbackPath,
		"backstage:\n  baseUrl: https://portal.example.com\n  externalCI:\n    githubActions: {enabled: true}\n": "",
		"backstage:\n  externalCI:\n    githubActions: {oauth: {clientId: abc}}\n":                               "",
	} {
		if got := CallbackURL(read(text).Values[0]); got != want {
			t.Errorf("%q of %s", got, text)
		}
	}
}

func read(text string) *objects.Set {
	set := new(objects.Set)
	set.Read("a.yaml", []byte(text))
	return set
}

// OpenChoreo's chart has exactly these keys.
func TestKeysAreThoseOfTheChart(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/openchoreo/openchoreo").Output()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(
		strings.TrimSpace(string(dir)), "install/helm/openchoreo-control-plane/values.schema.json",
	))
	if err != nil {
		t.Fatal(err)
	}
	type schema struct{ Properties map[string]json.RawMessage }
	var walk func(raw []byte, known mapping, path string)
	walk = func(raw []byte, known mapping, path string) {
		var s schema
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		got, want := slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(s.Properties))
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, the chart has %q", path, got, want)
		}
		for key, inner := range known {
			if inner != nil {
				walk(s.Properties[key], inner, path+"."+key)
			}
		}
	}
	var whole schema
	if err := json.Unmarshal(raw, &whole); err != nil {
		t.Fatal(err)
	}
	walk(whole.Properties["backstage"], chart["backstage"], "backstage")
}
