package attestation

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// Buildpacks write bills of materials in three formats. Whatever they hold, the document of them is one of SPDX.
func FuzzBills(f *testing.F) {
	files, _ := filepath.Glob("testdata/*")
	for _, file := range files {
		if raw, err := os.ReadFile(file); err == nil && len(raw) < 64<<10 {
			f.Add(raw, uint8(0))
		}
	}
	f.Add([]byte(`{"bomFormat":"CycloneDX","components":[{"type":"library","name":"a","version":"1",`+
		`"purl":"pkg:npm/a@1","licenses":[{"license":{"id":"MIT"}}],"components":[{"name":"b"}]}]}`), uint8(1))
	f.Add([]byte(`{"spdxVersion":"SPDX-2.3","packages":[`+
		`{"SPDXID":"SPDXRef-a","name":"a","licenseDeclared":"(MIT OR X)"}]}`), uint8(0))
	f.Add([]byte(`{"schema":{"url":"https://raw.githubusercontent.com/anchore/syft/main/schema/json/schema-16.json"},`+
		`"artifacts":[{"name":"a","version":"1","purl":"pkg:pypi/a@1"}]}`), uint8(2))
	f.Fuzz(func(t *testing.T, raw []byte, format uint8) {
		name := "a_buildpack/layer/" + formats[int(format)%len(formats)].suffix
		// Each package of a bill becomes a package of the document, and each name may be a license of its own.
		fuzztest.Of(8, 32).Bound(t, len(raw), func() {
			var l List
			l.Read(fstest.MapFS{name: &fstest.MapFile{Data: raw}})
			d, err := l.Document()
			if err != nil {
				return
			}
			if _, err := json.Marshal(d); err != nil {
				t.Error(err)
			}
			known := map[string]bool{}
			for _, p := range d.Packages {
				if known[p.SPDXID] || p.SPDXID == "" {
					t.Errorf("two packages are %q", p.SPDXID)
				}
				known[p.SPDXID] = true
			}
		})
	})
}
