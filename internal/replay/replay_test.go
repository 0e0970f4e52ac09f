package replay

import "testing"

func TestMarked(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		Mark(Build, "compiling"):        true,
		Mark(Check, "scanning"):         true,
		Mark(Build, ""):                 true,
		"| " + Mark(Build, "compiling"): true,
		"| " + Mark(Check, "scanning"):  true,
		`{"time":"2026-01-01T00:00:00Z","level":"INFO","msg":"` + Mark(Build, "compiling") + `","output":true}`: true,
		"":                                  false,
		"compiling":                         false,
		"compiling " + Mark(Build, "x"):     false,
		Mark("main", "x"):                   false,
		`{"msg":"Phase","name":"exporter"}`: false,
	} {
		if got := Marked(line); got != want {
			t.Errorf("%q: got %t", line, got)
		}
	}
}
