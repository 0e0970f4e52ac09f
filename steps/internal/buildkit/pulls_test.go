package buildkit

import "testing"

// A page in place of a manifest is no manifest. What a registry does not say is for BuildKit to find out.
func TestMayBeManifest(t *testing.T) {
	for kind, want := range map[string]bool{
		"": true, "application/vnd.oci.image.index.v1+json": true, "application/json; charset=utf-8": true,
		"application/vnd.docker.distribution.manifest.v1+prettyjws": true,
		"application/vnd.docker.distribution.manifest.v2+json":      true,
		"text/html; charset=utf-8":                                  false, "application/octet-stream": false,
		"text/plain": false,
	} {
		if got := mayBeManifest(kind); got != want {
			t.Errorf("%q: %t", kind, got)
		}
	}
}
