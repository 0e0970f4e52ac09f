package dockerfile

import (
	"encoding/json"
	"regexp"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// What the step attaches to images of buildpacks has the form of what BuildKit attaches to those of Dockerfiles.
func TestFormOfAttestations(t *testing.T) {
	t.Parallel()
	in := parameters(project(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"}), nil)
	theirs := imagelayout.Dir(in.Workspace.Image())
	succeed(t, in)
	var top, index, own v1.IndexManifest
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(theirs.ReadIndex(&top))
	check(theirs.ReadJSON(top.Manifests[0].Digest, &index))

	ours := imagelayout.Dir(t.TempDir())
	root, err := attestation.Attach(
		ours, index.Manifests[0], attestation.Predicate{Type: attestation.Provenance, Content: attestation.SLSA{}},
	)
	check(err)
	check(ours.ReadJSON(root.Digest, &own))
	if root.MediaType != top.Manifests[0].MediaType {
		t.Errorf("the index is of type %s, BuildKit's of %s", root.MediaType, top.Manifests[0].MediaType)
	}
	same := func(what string, a, b any) {
		t.Helper()
		if a, b := form(t, a), form(t, b); a != b {
			t.Errorf("%s is\n%s\nand BuildKit's\n%s", what, a, b)
		}
	}
	same("the index", own, index)
	var manifests, configs, statements [2]map[string]any
	for i, dir := range []imagelayout.Dir{ours, theirs} {
		check(dir.ReadJSON([]v1.IndexManifest{own, index}[i].Manifests[1].Digest, &manifests[i]))
		var manifest v1.Manifest
		check(dir.ReadJSON([]v1.IndexManifest{own, index}[i].Manifests[1].Digest, &manifest))
		check(dir.ReadJSON(manifest.Config.Digest, &configs[i]))
		check(dir.ReadJSON(manifest.Layers[0].Digest, &statements[i]))
		delete(statements[i], "predicate")
	}
	same("the manifest", manifests[0], manifests[1])
	same("the configuration", configs[0], configs[1])
	same("the statement", statements[0], statements[1])
}

var variable = regexp.MustCompile(`[0-9a-f]{64}|"size":[0-9]+`)

// form is a value as JSON, without what depends on the content of blobs.
func form(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.MarshalIndent(value, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return variable.ReplaceAllString(regexp.MustCompile(`"size": `).ReplaceAllString(string(raw), `"size":`), "…")
}
