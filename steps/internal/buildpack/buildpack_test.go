package buildpack

import (
	"strings"
	"testing"
)

var greeter = map[string]string{"greeting.txt": "hello\n", "dependencies.txt": "a 1.0\n"}

func TestBuild(t *testing.T) {
	registry, _ := newRegistry(t)
	dir := newWorkspace(t, greeter)
	e := newPod(t, registry, dir).run(t)
	t.Log(e.took, e.output)
	if e.code != 0 {
		t.Fatal(e.outcome)
	}
	if !strings.Contains(e.output, "fetched") {
		t.Error()
	}
}
