// Package lint holds the rules of the project that a compiler does not know.
package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/stepwright/stepwright/"

type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// packages asks the go command for the packages that the patterns match.
func packages(t *testing.T, patterns ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps"}, patterns...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// nouns are the packages that steps share, and which of each other they may import. A step imports no other step: they meet in the
// workspace only.
var nouns = map[string][]string{
	"outcome":      {},
	"redact":       {},
	"workspace":    {"outcome"},
	"parameters":   {"outcome", "redact"},
	"secret":       {},
	"trust":        {"outcome"},
	"registryauth": {"outcome", "redact"},
	"step":         {"outcome", "parameters", "redact", "workspace"},
	"userns":       {"outcome"},
	"buildkit":     {"outcome", "trust", "userns"},
	"imagelayout":  {"outcome", "workspace"},
	"baseimage":    {"outcome", "registryauth"},
	"gitsource":    {"outcome", "redact", "secret", "step", "trust", "workspace"},
	"dockerfile":   {"buildkit", "outcome", "redact", "registryauth", "secret", "step", "workspace"},
	"buildpack":    {"baseimage", "outcome", "registryauth", "secret", "step", "trust", "workspace"},
	"publish":      {"baseimage", "imagelayout", "outcome", "redact", "registryauth", "step", "trust", "workspace"},
	"openchoreo":   {"outcome", "redact", "trust"},
	"workload":     {"openchoreo", "outcome", "redact", "step", "trust", "workspace"},
}

// binaries are the steps: the package each wires, and the modules it must not link.
var binaries = map[string]struct {
	wires []string
	not   []string
}{
	"checkout-source":      {[]string{"gitsource", "step"}, []string{buildkit, ggcr, openchoreo, kubernetes}},
	"containerfile-build":  {[]string{"buildkit", "dockerfile", "step"}, []string{goGit, openchoreo}},
	"buildpacks-build":     {[]string{"buildpack", "step"}, []string{buildkit, containerd, goGit, openchoreo, kubernetes}},
	"publish-image":        {[]string{"publish", "step"}, []string{buildkit, containerd, goGit, openchoreo, kubernetes}},
	"generate-workload-cr": {[]string{"workload", "step"}, []string{buildkit, containerd, goGit, ggcr}},
}

const (
	buildkit   = "github.com/moby/buildkit"
	containerd = "github.com/containerd/containerd"
	ggcr       = "github.com/google/go-containerregistry"
	goGit      = "github.com/go-git/go-git"
	openchoreo = "github.com/openchoreo/openchoreo"
	kubernetes = "k8s.io/"
)

func within(importPath, prefix string) bool {
	return strings.HasPrefix(importPath, module+prefix)
}

func TestWhoMayImportWhom(t *testing.T) {
	for _, p := range packages(t, "./...") {
		own := strings.TrimPrefix(p.ImportPath, module)
		noun, isNoun := strings.CutPrefix(own, "steps/internal/")
		forTests := strings.HasSuffix(own, "test")
		for _, imported := range p.Imports {
			inside, ours := strings.CutPrefix(imported, module)
			target, ofNoun := strings.CutPrefix(inside, "steps/internal/")
			switch {
			case imported == "github.com/santhosh-tekuri/jsonschema/v5" && own != "schemas":
				t.Errorf("%s: only schemas imports jsonschema", own)
			case !ours:
			case strings.HasSuffix(inside, "test") && !forTests:
				t.Errorf("%s: %s is for tests", own, inside)
			case own == "schemas":
				t.Errorf("%s: imports %s, and may import nothing of ours", own, inside)
			case isNoun && !forTests && ofNoun:
				allowed, known := nouns[noun]
				if !known || !slices.Contains(allowed, target) {
					t.Errorf("%s: may not import %s; ci/lint says whom it may", own, inside)
				}
			case isNoun && !forTests && inside != "schemas":
				t.Errorf("%s: may not import %s", own, inside)
			case within(p.ImportPath, "steps/") && !isNoun && !ofNoun:
				t.Errorf("%s: a step wires packages of steps/internal, not %s", own, inside)
			case within(p.ImportPath, "ci/") && strings.HasPrefix(inside, "steps/"):
				t.Errorf("%s: drives the steps as programs and imports none of their code", own)
			}
		}
	}
}

func TestStepsWireOnlyTheirOwn(t *testing.T) {
	for _, p := range packages(t, "./steps/...") {
		name, ok := strings.CutPrefix(p.ImportPath, module+"steps/")
		if !ok || strings.Contains(name, "/") {
			continue
		}
		rule, known := binaries[name]
		if !known {
			t.Errorf("steps/%s: is not in ci/lint's list of steps", name)
			continue
		}
		for _, imported := range p.Imports {
			if noun, ours := strings.CutPrefix(imported, module+"steps/internal/"); ours && !slices.Contains(rule.wires, noun) {
				t.Errorf("steps/%s: may not import %s", name, noun)
			}
		}
		for _, dep := range p.Deps {
			for _, heavy := range rule.not {
				if strings.HasPrefix(dep, heavy) {
					t.Errorf("steps/%s: links %s, which makes it heavy", name, dep)
				}
			}
			// Not package testing itself: of BuildKit's libraries, go-cni links it.
			if within(dep, "ci/") || within(dep, "") && strings.HasSuffix(dep, "test") {
				t.Errorf("steps/%s: links %s, which is for tests", name, dep)
			}
		}
	}
}

func TestNoPackageIsACatchAll(t *testing.T) {
	for _, p := range packages(t, "./...") {
		for part := range strings.SplitSeq(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "types", "shared", "pkg", "misc", "base"}, part) {
				t.Errorf("%s: %q is not a noun of the domain", p.ImportPath, part)
			}
		}
	}
}
