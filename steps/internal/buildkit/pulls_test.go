package buildkit

import "testing"

// A page in place of a manifest or a blob is neither. What a registry does not say is for BuildKit to find out.
func TestMayAnswer(t *testing.T) {
	for kind, want := range map[string]bool{
		"": true, "application/vnd.oci.image.index.v1+json": true, "application/json; charset=utf-8": true,
		"application/vnd.docker.distribution.manifest.v1+prettyjws": true,
		"application/vnd.docker.distribution.manifest.v2+json":      true,
		"text/html; charset=utf-8":                                  false, "application/octet-stream": false,
		"text/plain": false,
	} {
		if got := mayAnswer("/manifests/1", kind); got != want {
			t.Errorf("manifest of %q: %t", kind, got)
		}
		if got := mayAnswer("/blobs/sha256:1", kind); got != (kind != "text/html; charset=utf-8") {
			t.Errorf("blob of %q: %t", kind, got)
		}
	}
}
