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
	cmd := exec.Command("go", append([]string{
		"list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps",
	}, patterns...)...)
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

// nouns are the packages that steps share, and which of each other they may import, and of the ground floor in
// internal. A step imports no other step: they meet in the workspace only.
var nouns = map[string][]string{
	"workspace":  {"outcome", "regularfile"},
	"parameters": {"outcome", "redact"},
	"secret":     {"outcome", "regularfile"},
	"trace":      {"outcome", "secret", "trust"},
	"step":       {"buildreport", "outcome", "parameters", "redact", "trace", "workspace"},
	"userns":     {"outcome"},
	"disk":       {},
	"cachemount": {},
	"outline":    {"regularfile"},
	"metrics":    {},
	"buildkit": {
		"cachemount", "disk", "filelock", "outcome", "outline", "registry", "regularfile", "trace", "trust",
		"userns",
	},
	"imagelayout": {"buildreport", "outcome", "workspace"},
	"baselayer":   {"outcome", "registry"},
	"transcript":  {},
	"handover":    {"outcome", "regularfile", "replay", "transcript"},
	"attestation": {"imagelayout", "step", "workspace"},
	"gitsource":   {"outcome", "redact", "secret", "step", "transcript", "trust", "workspace"},
	"dockerfile": {
		"attestation", "buildkit", "buildreport", "cachemount", "disk", "imagelayout", "outcome", "redact", "registry",
		"secret", "step", "trace", "transcript", "trust", "workspace",
	},
	"buildpack": {
		"attestation", "buildreport", "disk", "handover", "imagelayout", "outcome", "redact", "registry", "regularfile",
		"replay", "secret", "step", "transcript", "trust", "workspace",
	},
	"signature": {"imagelayout", "outcome", "redact", "registry", "secret"},
	"gate": {
		"baselayer", "handover", "imagelayout", "outcome", "registry", "regularfile", "replay", "secret", "step",
		"transcript", "trust", "workspace",
	},
	"publish": {
		"attestation", "baselayer", "buildreport", "imagelayout", "outcome", "redact", "registry", "secret",
		"signature", "step", "trust", "workspace",
	},
	"openchoreo":   {"outcome", "redact", "trust"},
	"commitstatus": {"outcome", "quote", "redact", "secret", "step", "trust", "workspace"},
	"workload": {
		"annotation", "descriptor", "openchoreo", "outcome", "redact", "secret", "step", "trust", "workspace",
	},
}

// ground is the ground floor of internal: what both the steps and the command stand on, and which of each other they
// may import.
var ground = map[string][]string{
	"annotation":  {},
	"buildreport": {},
	"descriptor":  {"outcome", "yamlline"},
	"filelock":    {},
	"outcome":     {"regularfile"},
	"quote":       {},
	"redact":      {},
	"regularfile": {},
	"replay":      {},
	"trust":       {"outcome"},
	"registry":    {"outcome", "redact", "trust"},
	"yamlline":    {},
}

// doors are the folders that people enter by; each may use what stands below it, and nothing uses a door. What a rule
// forbids is the prefix of a package's path.
var forbidden = []struct{ from, to, why string }{
	{"steps/", "ci/", "what checks and releases is no part of a step"},
	{"steps/", "cmd/", "a command is no part of a step"},
	{"internal/", "ci/", "the command carries nothing of what checks and releases it"},
	{"internal/", "cmd/", "a door stands above what it opens"},
	{"internal/", "steps/", "the command drives the steps as programs and imports none of their code"},
	{"ci/", "steps/", "what checks and releases drives the steps as programs and imports none of their code"},
	{"ci/", "cmd/", "a door stands above what it opens"},
	{"cmd/", "ci/", "the command carries nothing of what checks and releases it"},
	{"cmd/", "steps/", "the command drives the steps as programs and imports none of their code"},
	{"internal/cli", "internal/testimage/", "the command makes no image for tests: ci/mirror serves those"},
	{"internal/localplane", "internal/testimage/", "a run asks whatever mirror it is given"},
	{"internal/controlplane/", "internal/localplane", "what OpenChoreo does is the same wherever the run runs"},
	{"internal/controlplane/", "internal/cli", "the command stands above it"},
	{"internal/localplane", "internal/cli", "the command stands above it"},
	{"internal/workflowplane", "internal/cli", "the command stands above it"},
	{"internal/workflowplane", "internal/localplane", "a cluster and this machine are two planes"},
	{"internal/localplane", "internal/workflowplane", "a cluster and this machine are two planes"},
}

// binaries are the steps: the package each wires, and the modules it must not link.
var binaries = map[string]struct {
	wires []string
	not   []string
}{
	"checkout-source":     {[]string{"gitsource", "step"}, []string{buildkit, ggcr, openchoreo, kubernetes}},
	"containerfile-build": {[]string{"buildkit", "dockerfile", "metrics", "step"}, []string{goGit, openchoreo}},
	"buildpacks-build": {
		[]string{"buildpack", "handover", "step"},
		[]string{buildkit, containerd, goGit, openchoreo, kubernetes},
	},
	"scan-gate": {
		[]string{"gate", "handover", "step"},
		[]string{buildkit, containerd, goGit, openchoreo, kubernetes},
	},
	"publish-image": {
		[]string{"publish", "step"},
		[]string{buildkit, containerd, goGit, openchoreo, kubernetes},
	},
	"commit-status": {
		[]string{"commitstatus", "step"}, []string{buildkit, containerd, goGit, ggcr, openchoreo, kubernetes},
	},
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
		for _, imported := range p.Imports {
			if imported == "github.com/santhosh-tekuri/jsonschema/v5" && own != "schemas" {
				t.Errorf("%s: only schemas imports jsonschema", own)
			}
			if target, ours := strings.CutPrefix(imported, module); ours {
				if why := refused(own, target); why != "" {
					t.Errorf("%s: may not import %s: %s", own, target, why)
				}
			}
		}
	}
}

// refused says why a package may not import another, both of this module; empty when it may.
func refused(own, target string) string {
	forTests := strings.HasSuffix(own, "test")
	if strings.HasSuffix(target, "test") && !forTests {
		return "it is for tests"
	}
	if own == "schemas" {
		return "it may import nothing of ours"
	}
	if target == "internal/quote" {
		return "" // there is one filter, and everybody meets texts of strangers
	}
	for _, rule := range forbidden {
		if strings.HasPrefix(own, rule.from) && strings.HasPrefix(target, rule.to) {
			return rule.why
		}
	}
	below, isGround := strings.CutPrefix(target, "internal/")
	if _, known := ground[below]; !known {
		isGround = false
	}
	if floor, ok := strings.CutPrefix(own, "internal/"); ok {
		if allowed, known := ground[floor]; known && target != "schemas" && !(isGround &&
			slices.Contains(allowed, below)) {
			return "ci/lint says what the ground floor may import"
		}
		return ""
	}
	inside, isNoun := strings.CutPrefix(target, "steps/internal/")
	noun, own2 := strings.CutPrefix(own, "steps/internal/")
	switch {
	case forTests || !strings.HasPrefix(own, "steps/"):
	case !own2 && !isNoun:
		return "a step wires packages of steps/internal"
	case own2 && target != "schemas" && !(isNoun && slices.Contains(nouns[noun], inside)) && !(isGround &&
		slices.Contains(nouns[noun], below)):
		return "ci/lint says whom it may"
	}
	return ""
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
			if noun, ours := strings.CutPrefix(imported, module+"steps/internal/"); ours &&
				!slices.Contains(rule.wires, noun) {
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

// What makes images for tests is no part of what people install.
func TestCommandLinksNothingForTests(t *testing.T) {
	for _, p := range packages(t, "./cmd/stepwright") {
		for _, dep := range p.Deps {
			if within(dep, "internal/testimage/") || within(dep, "ci/") ||
				within(dep, "") && strings.HasSuffix(dep, "test") {
				t.Errorf("%s: links %s, which is for tests", strings.TrimPrefix(p.ImportPath, module), dep)
			}
		}
	}
}

func TestNoPackageIsACatchAll(t *testing.T) {
	for _, p := range packages(t, "./...") {
		for part := range strings.SplitSeq(strings.TrimPrefix(p.ImportPath, module), "/") {
			if slices.Contains([]string{
				"util", "utils", "common", "helper", "helpers", "types", "shared", "pkg", "misc", "base",
			}, part) {
				t.Errorf("%s: %q is not a noun of the domain", p.ImportPath, part)
			}
		}
	}
}
