package commitstatus

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDescriptions(t *testing.T) {
	t.Parallel()
	failed := func(message string) string {
		raw, err := json.Marshal([]map[string]string{{"displayName": "containerfile-build", "message": message}})
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for name, test := range map[string]struct {
		in            Parameters
		state, wanted string
	}{
		"pending": {Parameters{Status: pending}, pending, "The build runs"},
		"success": {Parameters{Status: success, Failures: "null"}, success, "The build has succeeded"},
		"words of one's own": {Parameters{Status: success, Description: "42 tests\x1b[2J"}, success,
			`42 tests\x1b[2J`},
		"a failure of which nothing is told": {Parameters{Status: failure}, failure, "The build has failed"},
		"a failure without a node": {Parameters{Status: failure, Failures: "null"}, failure,
			"The build has failed"},
		"a reason": {Parameters{Status: failure, Failures: failed(
			"main: Error (exit code 22): BuildFailed: RUN go build ended with 1:\nmain.go:7: undefined\nRead the log.",
		)}, failure, "BuildFailed: RUN go build ended with 1"},
		"the first sentence": {Parameters{Status: failure, Failures: failed(
			"Error (exit code 20): DockerfileNotFound: there is no ./Dockerfile. Check docker.filePath.",
		)}, failure, "DockerfileNotFound: there is no ./Dockerfile"},
		"no words": {Parameters{Status: failure, Failures: failed("OOMKilled (exit code 137)")}, failure, "Killed"},
		"no reason": {Parameters{Status: failure, Failures: failed("Pod was active on the node too long")}, failure,
			"containerfile-build has failed: Pod was active on the node too long"},
		"no reason and no words": {Parameters{Status: failure, Failures: failed("")}, failure,
			"containerfile-build has failed"},
		"a step that was told to stop": {Parameters{Status: failure, Failures: failed(
			"Error (exit code 130): Cancelled: stopped by terminated",
		)}, cancelled, "The build was stopped"},
		"a workflow that was stopped": {Parameters{Status: failure, Failures: failed(
			"workflow shutdown with strategy:  Stop",
		)}, cancelled, "The build was stopped"},
		"what a terminal would obey": {Parameters{Status: failure, Failures: failed(
			"Error (exit code 22): BuildFailed: \x1b]8;;x",
		)}, failure, `BuildFailed: \x1b]8;;x`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if state, got, err := test.in.ending(); err != nil || state != test.state || got != test.wanted {
				t.Errorf("%s: %q, %v, want %s: %q", state, got, err, test.state, test.wanted)
			}
		})
	}
}

// Two components of one repository never have one context, however long their names are.
func TestContexts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 200)
	seen := map[string]string{}
	for _, in := range []Parameters{
		{}, {Namespace: "acme"}, {Namespace: "acme", Project: "online-store", Component: "cart"},
		{Namespace: "acme", Project: "online", Component: "store-cart"},
		{Namespace: "acme", Project: "online-store", Component: "catalogue"},
		{Namespace: "acme", Project: "online-store", Component: "catalogue-cache"},
		{Namespace: "acme", Project: long, Component: long + "a"},
		{Namespace: "acme", Project: long, Component: long + "b"},
		{Context: strings.Repeat("ä", 300)},
	} {
		for _, limit := range []int{40, 255} {
			got := unique(in.name(), limit)
			if n := utf8.RuneCountInString(got); n > limit {
				t.Errorf("%s has %d characters, at most %d are wanted", got, n, limit)
			}
			key := fmt.Sprint(limit, got)
			if other, ok := seen[key]; ok {
				t.Errorf("%q and %q are one", other, in.name())
			}
			seen[key] = in.name()
		}
	}
	if got := unique("stepwright/acme/online-store/cart", 40); got != "stepwright/acme/online-store/cart" {
		t.Errorf("got %s", got)
	}
	got := unique("stepwright/acme/online-store/catalogue-cache", 40)
	if !strings.HasPrefix(got, "stepwright/acme/online-") || len(got) != 40 {
		t.Errorf("got %s", got)
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	in := Parameters{Namespace: "acme", Project: "a/b ?", Component: "cart", Run: "cart-1"}
	for link, want := range map[string]string{
		"":                      "",
		"https://x.example/a#b": "https://x.example/a#b",
		"https://x.example/{namespace}/{component}/{run}/{commit}": "https://x.example/acme/cart/cart-1/" + commit,
		"https://x.example/{project}?p={project}&c={component}":    "https://x.example/a%2Fb%20%3F?p=a%2Fb+%3F&c=cart",
	} {
		in.Link = link
		if got, err := in.link(commit); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", link, got, err, want)
		}
	}
	host := newHost(t, nil)
	with := parametersOf(t, gitlab, host.URL)
	with.Link = "https://x.example/" + strings.Repeat("y", 255)
	with.Status, with.Failures = failure, `[{"displayName":"a","message":"Error (exit code 22): BuildFailed: `+
		strings.Repeat("ä", 300)+`"}]`
	mustRun(t, with)
	got := host.requests()[0].Body
	if _, has := got["target_url"]; has {
		t.Errorf("a link that GitLab refuses was sent: %v", got)
	}
	if n := utf8.RuneCountInString(got["description"]); n != 255 || !strings.HasSuffix(got["description"], "ä…") {
		t.Errorf("the description has %d characters: %v", n, got)
	}
	host = newHost(t, nil)
	with = parametersOf(t, bitbucket, host.URL)
	with.Component = "catalogue-cache"
	mustRun(t, with)
	got = host.requests()[0].Body
	if got["url"] != "https://bitbucket.org/acme/cart/commits/"+commit || utf8.RuneCountInString(got["key"]) != 40 ||
		got["name"] != "stepwright/acme/online-store/catalogue-cache" {
		t.Errorf("Bitbucket got %v", got)
	}
}
