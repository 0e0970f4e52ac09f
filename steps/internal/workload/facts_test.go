package workload

import (
	"encoding/json"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/internal/annotation"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

const (
	someDigest  = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	otherDigest = "sha256:9b2a0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85"
)

// ours are the annotations of a WorkflowRun that tell facts.
func (b *bench) ours() map[string]string {
	all := maps.Clone(b.workflowRun("cart-1").Annotations)
	maps.DeleteFunc(all, func(key, _ string) bool { return !strings.HasPrefix(key, "stepwright.dev/") })
	return all
}

func TestFacts(t *testing.T) {
	t.Parallel()
	revision := func(r workspace.Revision) func(*Parameters) {
		return func(in *Parameters) {
			raw, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			in.Revision = string(raw)
		}
	}
	commit := strings.Repeat("1a2b3c4d", 5)
	for name, test := range map[string]struct {
		given []func(*Parameters)
		want  map[string]string
	}{
		"nothing is known": {nil, map[string]string{}},
		"a branch": {[]func(*Parameters){revision(workspace.Revision{Commit: commit, Branch: "main"})},
			map[string]string{annotation.Commit: commit, annotation.Branch: "main"}},
		"a commit alone": {[]func(*Parameters){revision(workspace.Revision{Commit: commit})},
			map[string]string{annotation.Commit: commit}},
		"a branch of a stranger's": {
			[]func(*Parameters){revision(workspace.Revision{Commit: commit, Branch: "a\u202eb\nc"})},
			map[string]string{annotation.Commit: commit, annotation.Branch: `a\u202eb\nc`},
		},
		"an image": {[]func(*Parameters){func(in *Parameters) { in.Image += "@" + someDigest }},
			map[string]string{annotation.Image: someDigest}},
		"all that publish-image tells": {[]func(*Parameters){func(in *Parameters) {
			in.SignatureDigest, in.SBOMDigests = someDigest, []string{otherDigest, someDigest}
		}}, map[string]string{annotation.Signature: someDigest, annotation.SBOMs: otherDigest + "," + someDigest}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			for _, change := range test.given {
				change(&b.in)
			}
			b.mustRun()
			if diff := cmp.Diff(test.want, b.ours()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if a := b.workflowRun("cart-1").Annotations; a[payloadAnnotation] == "" || a["example.com/kept"] != "yes" {
				t.Errorf("annotations %v", a)
			}
		})
	}
	b := newBench(t, nil)
	b.in.Revision = "main"
	b.fails(outcome.InvalidParameters, "revision")
}

func TestFailures(t *testing.T) {
	t.Parallel()
	gate := `{"displayName":"scan-gate","message":"main: Error (exit code 37): VulnerabilitiesFound: 1 critical {{x}}"}`
	for name, test := range map[string]struct {
		failures     string
		reason, step string
	}{
		"a step of ours":                       {"[" + gate + "]", "VulnerabilitiesFound", "scan-gate"},
		"in quotes of Go's, as Argo passes it": {strconv.Quote("[" + gate + "]"), "VulnerabilitiesFound", "scan-gate"},
		"behind what failed because of it": {
			`[{"displayName":"cart-1","message":"child 'cart-1-2' failed"},` + gate + `]`, "VulnerabilitiesFound",
			"scan-gate"},
		"a container that was killed": {`[{"displayName":"build","message":"OOMKilled (exit code 137)"}]`, "Killed",
			"build"},
		"an exit code of nobody's": {`[{"displayName":"a","message":"main: Error (exit code 99): Succeeded: x"}]`,
			"Failed", "a"},
		"a text that looks so": {`[{"displayName":"a","message":"x Error (exit code 37): x"}]`, "Failed", "a"},
		"a pod that took too long": {`[{"displayName":"a","message":"Pod was active on the node too long"}]`,
			"Failed", "a"},
		"an exit code of success": {`[{"displayName":"a","message":"Error (exit code 0)"}]`, "Failed", "a"},
		"nothing that is told":    {"[]", "Failed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			b.in.Image, b.in.Failures = "", test.failures
			if results := b.mustRun(); len(results) > 0 {
				t.Errorf("results %v", results)
			}
			want := map[string]string{annotation.Reason: test.reason, annotation.FailedStep: test.step}
			if diff := cmp.Diff(want, b.ours()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			b.wantWrites(putRun)
			b.mustRun()
			b.wantWrites(putRun)
		})
	}
	b := newBench(t, nil)
	b.in.Failures = "{{workflow.failures}}"
	b.fails(outcome.InvalidParameters, "failures")
	b.in.Failures, b.in.DryRun = "[]", true
	b.fails(outcome.InvalidParameters, "failures: they are of a WorkflowRun")
}
