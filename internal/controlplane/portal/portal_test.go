package portal

import (
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
		"      enabled: true\n" + fields
}

func TestCheck(t *testing.T) {
	t.Parallel()
	const frame = "/api/auth/github/handler/frame"
	oauth := github("      oauth:\n        clientId: abc\n")
	cases := []struct {
		name, text, callback string
		want                 []string
	}{
		{name: "a job", text: component(JobAnnotation, "/job/acme/job/cart")},
		{name: "a job in folders", text: component(JobAnnotation, "/job/acme/job/store/job/cart/job/main")},
		{name: "a full name", text: component(JobAnnotation, "acme/cart"),
			want: []string{
				`a.yaml:7: Component acme/cart: metadata.annotations[jenkins.io/job-full-name]: "acme/cart" is not ` +
					`the path of a Jenkins job, which has the form /job/org/job/name; is /job/acme/job/cart meant?`,
			}},
		{name: "a job without its slash", text: component(JobAnnotation, "job/acme/job/cart/"),
			want: []string{"is /job/acme/job/cart meant?"}},
		{name: "a URL of a job", text: component(JobAnnotation, "https://jenkins.example.com/ci/job/acme/job/cart/"),
			want: []string{"is /job/acme/job/cart meant?"}},
		{name: "an empty job", text: component(JobAnnotation, ""), want: []string{`"" is not the path`}},
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
			want: []string{"a.yaml:6: ", "backstage.externalCI.githubActions.host: ghe.example.com without apiBaseUrl",
				"set apiBaseUrl to https://ghe.example.com/api/v3"}},
		{name: "the API of GHES without its host", text: github("      apiBaseUrl: https://ghe.example.com/api/v3\n"),
			want: []string{"a.yaml:6: ", "is not the API of github.com", "set host, too"}},
		{name: "the API of another host",
			text: github("      host: ghe.example.com\n      apiBaseUrl: https://other.example.com/api/v3\n"),
			want: []string{"a.yaml:7: ", "is not the API of ghe.example.com"}},
		{name: "a URL as host",
			text: github("      host: https://ghe.example.com/\n      apiBaseUrl: https://ghe.example.com/api/v3\n"),
			want: []string{"neither scheme nor path"}},

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
			want: []string{"a.yaml:1: Values a.yaml: backstage: json: cannot unmarshal array"}},
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
		github("      oauth: {clientId: abc}\n"): "https://portal.example.com" + callbackPath,
		github(""):                               "",
		"backstage:\n  externalCI:\n    githubActions: {oauth: {clientId: abc}}\n": "",
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
