package workload

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/openchoreotest"
)

// probes are what the step has printed.
func (b *bench) probes() map[string]outcome.Probe {
	b.t.Helper()
	all := map[string]outcome.Probe{}
	for line := range strings.Lines(b.stdout.String()) {
		var p outcome.Probe
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		if before, ok := all[p.Check]; !ok || before.Reason == outcome.Succeeded {
			all[p.Check] = p
		}
	}
	return all
}

// What is asked is what the step needs, and nothing changes by it.
func TestCheckOnly(t *testing.T) {
	t.Parallel()
	const ok = outcome.Succeeded
	for name, test := range map[string]struct {
		change func(*testing.T, *bench)
		want   map[string]outcome.Reason // by check
		says   string                    // of the one that is not well
	}{
		"all is well": {
			func(*testing.T, *bench) {},
			map[string]outcome.Reason{"oauth-token": ok, "api": ok, "api-role": ok}, "",
		},
		"wrong secret": {
			func(t *testing.T, b *bench) { write(t, b.in.ClientSecretFile, "canary-but-wrong") },
			map[string]outcome.Reason{"oauth-token": outcome.Unauthorized}, "invalid_client",
		},
		"another token URL": {
			func(_ *testing.T, b *bench) { b.in.TokenURL = b.URL + "/wrong/oauth2/token" },
			map[string]outcome.Reason{"oauth-token": outcome.NotFound}, "404",
		},
		"not the API": {
			func(_ *testing.T, b *bench) { b.in.APIServerURL += "/wrong" },
			map[string]outcome.Reason{"oauth-token": ok, "api": outcome.NotFound}, "404",
		},
		"a client without a role": {
			func(t *testing.T, b *bench) {
				other := openchoreotest.Start(t, openchoreotest.Component("acme", "store", "cart"), "elsewhere")
				b.in.APIServerURL, b.in.TokenURL = other.PlainURL, other.PlainURL+"/oauth2/token"
			},
			map[string]outcome.Reason{"oauth-token": ok, "api": ok, "api-role": outcome.Forbidden}, "permission",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			b.in.CheckOnly, b.in.Image, b.in.Project, b.in.Component = true, "", "stepwright", "stepwright"
			test.change(t, b)
			_, err := b.run()
			worst := outcome.Succeeded
			found := b.probes()
			for check, want := range test.want {
				if found[check].Reason != want {
					t.Errorf("%s: %+v, want %s", check, found[check], want)
				}
				if want != ok {
					worst = want
					if !strings.Contains(found[check].Message, test.says) || found[check].Hint == "" {
						t.Errorf("%s: %+v", check, found[check])
					}
				}
			}
			if len(found) != len(test.want) {
				t.Errorf("%+v", found)
			}
			failure := outcome.Of(err)
			if (worst == ok) != (failure == nil) || failure != nil && failure.Reason != worst {
				t.Errorf("ended with %v, want %s", err, worst)
			}
			if made, err := b.WorkloadsOf("acme", nowhere); err != nil || len(made) > 0 {
				t.Errorf("it has made %v, %v", made, err)
			}
			if strings.Contains(b.stdout.String(), openchoreotest.ClientSecret) {
				t.Error("the secret is shown")
			}
		})
	}
}
