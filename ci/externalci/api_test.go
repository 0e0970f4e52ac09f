package externalci_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devidp"
)

const (
	oldImage = "registry.example.com/cart:1111111"
	newImage = "registry.example.com/cart:2222222"
)

// apiCase is one thing that a pipeline can meet.
type apiCase struct {
	name string
	// run plays the case, and returns how the step ended and for which component.
	run func(t *testing.T, p *platform) (o outcome, component string)

	reason string
	say    []string // parts of message and hint
	after  string   // the component's Workloads at the end
}

const none = "no Workload"

// one is a single Workload; an empty name stands for the name of a new one.
func one(name, image string) string {
	if name == "" {
		name = "‹component›-workload"
	}
	return name + " with the " + image + " image"
}

func apiCases() []apiCase {
	direct := func(change func(*platform, map[string]string)) func(*testing.T, *platform) (outcome, string) {
		return func(t *testing.T, p *platform) (outcome, string) {
			c := p.component(t)
			in := p.parameters(c, newImage)
			change(p, in)
			return register(t, in), c
		}
	}
	return []apiCase{
		{
			name: "The component has no Workload", run: direct(func(*platform, map[string]string) {}),
			reason: "Succeeded", after: one("", "new"),
		},
		{
			name: "It has one already", after: one("", "new"), reason: "Succeeded",
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				p.give(t, c, c+"-workload", oldImage)
				return register(t, p.parameters(c, newImage)), c
			},
		},
		{
			name: "It has this image already: nothing is written", after: one("", "new"), reason: "Succeeded",
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				x := before(t, p, nil)
				first := register(t, x.lead(p, p.parameters(c, newImage)))
				second := register(t, x.lead(p, p.parameters(c, newImage)))
				posts, puts := x.count("POST", "/workloads"), x.count("PUT", "/workloads")
				if first.Reason != "Succeeded" || posts != 1 || puts != 0 {
					t.Errorf("%s, %d POST and %d PUT", first.Reason, posts, puts)
				}
				return second, c
			},
		},
		{
			name: "It has one that the list does not show yet: 409, then an update", after: one("", "new"),
			reason: "Succeeded",
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				p.give(t, c, c+"-workload", oldImage)
				x := before(t, p, func(_ *proxy, w http.ResponseWriter, r *http.Request) bool {
					hide := r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/workloads")
					if hide {
						w.Header().Set("Content-Type", "application/json")
						fmt.Fprint(w, `{"items":[],"pagination":{}}`)
					}
					return hide
				})
				o := register(t, x.lead(p, p.parameters(c, newImage)))
				if posts, puts := x.count("POST", "/workloads"), x.count("PUT", "/workloads/"); posts != 1 ||
					puts != 1 {
					t.Errorf("%d POST and %d PUT", posts, puts)
				}
				return o, c
			},
		},
		{
			name: "It has one of another name, made in the portal", after: one("‹component›-by-hand", "new"),
			reason: "Succeeded",
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				p.give(t, c, c+"-by-hand", oldImage)
				o := register(t, p.parameters(c, newImage))
				if o.Results["workload"] != c+"-by-hand" {
					t.Errorf("results %v", o.Results)
				}
				return o, c
			},
		},
		{
			name:   "It has two",
			after:  one("‹component›-second", "old") + ", " + one("‹component›-workload", "old"),
			reason: "WorkloadRejected",
			say:    []string{"has 2 Workloads: ‹component›-second, ‹component›-workload", "delete the others"},
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				p.give(t, c, c+"-workload", oldImage)
				p.give(t, c, c+"-second", oldImage)
				return register(t, p.parameters(c, newImage)), c
			},
		},
		{
			name: "The client's secret is wrong", reason: "Unauthorized", after: none,
			say: []string{"invalid_client", "Check the client ID and secret"},
			run: direct(func(_ *platform, in map[string]string) { in["OAUTH_CLIENT_SECRET"] = "canary-but-wrong" }),
		},
		{
			name: "There is no token endpoint's URL: the API's metadata leads to it", reason: "Succeeded",
			after: one("", "new"),
			run:   direct(func(_ *platform, in map[string]string) { in["OAUTH_TOKEN_URL"] = "" }),
		},
		{
			name: "There is a client assertion beside the secret", reason: "InvalidParameters", after: none,
			say: []string{"oauth-client-assertion, oauth-client-secret: all of them are given"},
			run: direct(func(_ *platform, in map[string]string) { in["OAUTH_CLIENT_ASSERTION"] = "e30.e30.canary" }),
		},
		{
			name: "The client's assertion is of an issuer that the provider does not trust", reason: "Unauthorized",
			after: none,
			say:   []string{"Check that client", "the assertion is of the issuer https://other.example.com"},
			run: func(t *testing.T, p *platform) (outcome, string) {
				other, err := devidp.New(devidp.Options{Issuer: "https://other.example.com"})
				if err != nil {
					t.Fatal(err)
				}
				c, in := p.component(t), p.parameters("", newImage)
				in["COMPONENT_NAME"], in["OAUTH_CLIENT_SECRET"] = c, ""
				in["OAUTH_CLIENT_ASSERTION"] = (&platform{jobs: other}).idToken(t, p.tokenURL)
				return register(t, in), c
			},
		},
		{
			name: "The client has no role", reason: "Forbidden", after: none,
			say: []string{"403 Forbidden", "is bound to a role"},
			run: direct(func(p *platform, in map[string]string) {
				in["API_SERVER_URL"], in["OAUTH_TOKEN_URL"] = p.nobody.api, p.nobody.token
				in["OAUTH_CLIENT_ID"], in["OAUTH_CLIENT_SECRET"] = p.nobody.id, p.nobody.secret
			}),
		},
		{
			name: "There is no such component", reason: "NotFound", after: none,
			say: []string{"component ‹component› in namespace", "Referenced component not found",
				"Check the component and namespace names"},
			run: func(t *testing.T, p *platform) (outcome, string) {
				const c = "ci-never-made"
				return register(t, p.parameters(c, newImage)), c
			},
		},
		{
			name: "The API is down for 10 s", reason: "Succeeded", after: one("", "new"),
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				x := before(t, p, nil)
				in := x.lead(p, p.parameters(c, newImage))
				in["API_SERVER_URL"] = "http://" + downFor(t, 10*time.Second, x)
				started := time.Now()
				o := register(t, in)
				if took := time.Since(started); took < 10*time.Second {
					t.Errorf("took only %s", took)
				}
				return o, c
			},
		},
		{
			name: "Nothing listens at the API's address, for longer than it is tried", reason: "ApiUnavailable",
			after: none,
			say:   []string{"connection refused", "nothing listens on that port"},
			run: direct(func(_ *platform, in map[string]string) {
				in["API_SERVER_URL"], in["MAX_ATTEMPTS"] = "http://127.0.0.1:1", "3"
			}),
		},
		{
			name: "The connection breaks after the API has created the Workload", reason: "Succeeded",
			after: one("", "new"),
			run:   func(t *testing.T, p *platform) (outcome, string) { return cutOnce(t, p, "POST", "") },
		},
		{
			name: "The connection breaks after the API has updated it", reason: "Succeeded", after: one("", "new"),
			run: func(t *testing.T, p *platform) (outcome, string) { return cutOnce(t, p, "PUT", oldImage) },
		},
		{
			name: "The token is no longer accepted, in the middle: one fresh token", reason: "Succeeded",
			after: one("", "new"),
			run: func(t *testing.T, p *platform) (outcome, string) {
				c := p.component(t)
				var refused atomic.Bool
				x := before(t, p, func(_ *proxy, w http.ResponseWriter, r *http.Request) bool {
					if r.Method != "POST" || !isAPI(r) || refused.Swap(true) {
						return false
					}
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(http.StatusUnauthorized)
					fmt.Fprint(w, `{"error":"INVALID_TOKEN","message":"invalid or expired token"}`)
					return true
				})
				o := register(t, x.lead(p, p.parameters(c, newImage)))
				if tokens := x.count("POST", "/token"); tokens != 2 {
					t.Errorf("%d tokens", tokens)
				}
				return o, c
			},
		},
	}
}

// downFor is an address at which nothing listens for a while, and then the proxy.
func downFor(t *testing.T, d time.Duration, x *proxy) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	late := time.AfterFunc(d, func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Errorf("listening again: %v", err)
			return
		}
		server := &http.Server{Handler: x.Config.Handler}
		t.Cleanup(func() { server.Close() })
		go server.Serve(l) // ends with Close
	})
	t.Cleanup(func() { late.Stop() })
	return address
}

// cutOnce breaks the connection once, after the API has done its work, and expects no second change.
func cutOnce(t *testing.T, p *platform, method, existing string) (outcome, string) {
	t.Helper()
	c := p.component(t)
	if existing != "" {
		p.give(t, c, c+"-workload", existing)
	}
	var done atomic.Bool
	x := before(t, p, func(x *proxy, _ http.ResponseWriter, r *http.Request) bool {
		if r.Method != method || !isAPI(r) || done.Swap(true) {
			return false
		}
		x.cut(r)
		return true
	})
	o := register(t, x.lead(p, p.parameters(c, newImage)))
	if n := x.count(method, "/workloads"); !done.Load() || n != 1 {
		t.Errorf("%d %s; want the one that was cut", n, method)
	}
	return o, c
}

// TestAPI is the table of API cases in docs/developers/external-ci.md.
func TestAPI(t *testing.T) {
	cases := apiCases()
	rows := make([]string, len(cases))
	t.Run("cases", func(t *testing.T) {
		for i, tc := range cases {
			t.Run(tc.name, func(t *testing.T) {
				t.Parallel()
				p := newPlatform(t)
				o, component := tc.run(t, p)
				general := func(text string) string { return strings.ReplaceAll(text, component, "‹component›") }
				if o.Reason != tc.reason {
					t.Errorf("ended as %s: %s; want %s", o.Reason, o.Message, tc.reason)
				}
				for _, part := range tc.say {
					if !strings.Contains(general(o.Message+" "+o.Hint), part) {
						t.Errorf("does not say %q: %s. %s", part, o.Message, o.Hint)
					}
				}
				var has []string
				for _, w := range p.workloads(t, component) {
					which := map[string]string{oldImage: "old", newImage: "new"}[w.Spec.Container.Image]
					has = append(has, one(general(w.Metadata.Name), which))
				}
				slices.Sort(has)
				after := strings.Join(has, ", ")
				if after == "" {
					after = none
				}
				if after != tc.after {
					t.Errorf("afterwards there is %s; want %s", after, tc.after)
				}
				rows[i] = fmt.Sprintf("| %s | `%s` | %d | %s |\n", tc.name, o.Reason, o.ExitCode, after)
			})
		}
	})
	if t.Failed() {
		return
	}
	table := "\n| case | result | exit code | the component afterwards |\n|---|---|---|---|\n" +
		strings.Join(rows, "") + "\n"
	const page = "../../docs/developers/external-ci.md"
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	part := regexp.MustCompile(
		`(?s)(<!-- Written by go test ./ci/externalci -update\. -->\n)(.*?)(<!-- End of it\. -->)`,
	)
	found := part.FindSubmatch(raw)
	switch {
	case found == nil:
		t.Fatalf("%s has no place for the table", page)
	case string(found[2]) == table:
	case *update:
		if err := os.WriteFile(page, part.ReplaceAll(raw, []byte("${1}"+strings.ReplaceAll(table, "$", "$$")+
			"${3}")), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("the table in %s is another; run go test with -update if it should be:\n%s", page, table)
	}
}
