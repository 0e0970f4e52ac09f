package localplane

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stepwright/stepwright/internal/kustomization"
	"github.com/stepwright/stepwright/internal/localplane/plan"
)

// overlay are the templates of both planes with a component.
func overlay(t *testing.T, component string) *plan.Library {
	t.Helper()
	root, err := filepath.Abs("../../templates")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	up, err := filepath.Rel(dir, root)
	if err != nil {
		t.Fatal(err)
	}
	text := "resources: [" + up + "/workflow-plane, " + up + "/control-plane]\n"
	if component != "" {
		text += "components: [" + up + "/components/" + component + "]\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	built, err := kustomization.Text(dir)
	if err != nil {
		t.Fatal(err)
	}
	library := new(plan.Library)
	if err := library.Add(built); err != nil {
		t.Fatal(err)
	}
	return library
}

// A run signs with the key that a developer gives, where the templates sign with one. Without it, and with an identity
// that only a cluster has, it signs nothing, and says so.
func TestSigning(t *testing.T) {
	t.Parallel()
	given := Signing{Key: "/home/me/cosign.key", Password: "/home/me/password"}
	for name, test := range map[string]struct {
		component string
		given     Signing
		setting   string // empty: the template's own
		unsigned  string
	}{
		"nothing":         {"", Signing{}, "", ""},
		"a key":           {"signing-key", given, "", ""},
		"no key":          {"signing-key", Signing{}, "none", "key"},
		"an identity":     {"signing-keyless", Signing{}, "none", "keyless"},
		"a key, for none": {"signing-keyless", given, "none", "keyless"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			library := overlay(t, test.component)
			p := New(Options{State: "/state", Builders: "/cache", Signing: test.given})
			m := p.Machine(run(t), library, "/bin", "/scratch")
			if got := m.Settings["publish-image"]["signing"]; got != test.setting {
				t.Errorf("signing is %q, want %q", got, test.setting)
			}
			if got := p.Unsigned(library); got != test.unsigned {
				t.Errorf("unsigned is %q, want %q", got, test.unsigned)
			}
			secret, there := m.Secrets[run(t).Name+"-signing-key"]
			if takes := test.component == "signing-key"; there != takes || TakesKey(library) != takes {
				t.Errorf("the key is %v, %t", secret, there)
			}
			if there && (secret.Files["cosign.key"] != test.given.Key ||
				secret.Files["cosign.password"] != test.given.Password) {
				t.Errorf("the key is %v", secret)
			}
		})
	}
}
