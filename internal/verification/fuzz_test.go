package verification

import (
	"testing"

	"github.com/stepwright/stepwright/internal/fuzztest"
)

// FuzzStatement: what signed statements say, of whatever form, is read or refused. All who may push can sign something.
func FuzzStatement(f *testing.F) {
	f.Add([]byte(`{"predicate":{"buildDefinition":{"buildType":"a","externalParameters":{"repository":` +
		`{"url":"https://h/r","revision":{"commit":"01"}}},"resolvedDependencies":[{"uri":"git+https://h/r#main",` +
		`"digest":{"gitCommit":"01"}}]},"runDetails":{"builder":{"id":"b"}}}}`))
	f.Add([]byte(`{"predicate":{"builder":{"id":"b"},"invocation":{"configSource":{"uri":"https://h/r#x",` +
		`"digest":{"sha1":"01"}}}}}`))
	f.Add([]byte(`{"predicate":{"run":{"name":"a"},"startedOn":"2026-01-02T03:04:05Z"}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		fuzztest.Small.Bound(t, len(payload), func() {
			for _, predicate := range []string{slsa1, slsa02} {
				p, err := readProvenance(Statement{Predicate: predicate, Payload: payload})
				if err == nil && (p.Commit == "") != (p.Repository == "") && p.Commit == "" {
					t.Errorf("%q without a commit", p.Repository)
				}
			}
			readRun(Statement{Payload: payload})
		})
	})
}
