package lint

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestUnraced: a test that make test leaves out under the race detector is run without it, wherever it is, and so is
// each other test of its name.
func TestUnraced(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	variable := func(name string) string {
		value := regexp.MustCompile(`(?m)^` + name + ` *:= (.*)$`).FindSubmatch(makefile)
		if value == nil {
			t.Fatalf("the Makefile has no variable %s", name)
		}
		return string(value[1])
	}
	names := strings.Split(strings.Trim(variable("UNRACED"), "^($)"), "|")
	run := append(strings.Fields(variable("UNRACED_IN")), "./ci/attacks")
	found := map[string]bool{}
	for _, file := range tracked(t, "*_test.go") {
		source, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !strings.Contains(string(source), "\nfunc "+name+"(") {
				continue
			}
			found[name] = true
			if folder := "./" + path.Dir(file); !slices.Contains(run, folder) {
				t.Errorf("%s: UNRACED of the Makefile has %s: add %s to UNRACED_IN", file, name, folder)
			}
		}
	}
	for _, name := range names {
		if !found[name] {
			t.Errorf("UNRACED of the Makefile has %s, which no test is called", name)
		}
	}
}
