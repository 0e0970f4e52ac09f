package lint

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const mapPage = "ARCHITECTURE.md"

// TestMap: the map of packages in ARCHITECTURE.md has every package, and nothing that is not there.
func TestMap(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("../..", mapPage))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "\n## The map\n")
	if !found {
		t.Fatalf("%s has no map", mapPage)
	}
	text, _, _ = strings.Cut(text, "\n### ")
	places := placesOn(text)
	for place := range places {
		if info, err := os.Stat(filepath.Join("../..", place)); err != nil || !info.IsDir() {
			t.Errorf("%s: there is no folder %s", mapPage, place)
		}
	}
	for _, p := range packages(t, "./...") {
		if own := strings.TrimPrefix(p.ImportPath, module); !covered(places, own) {
			t.Errorf("%s: %s is not on the map", mapPage, own)
		}
	}
}

func TestPlacesOn(t *testing.T) {
	places := placesOn(`
    cmd/stepwright    a command
    internal/door/    a room
      one,
      two             in it
      three/four      deeper
    ci                no room

Text with cmd/other in it.
`)
	for own, want := range map[string]bool{
		"cmd/stepwright": true, "cmd/other": false, "internal/door/one": true, "internal/door/two": true,
		"internal/door": true, "internal/door/three": false, "internal/door/three/four": true,
		"internal/door/five": false, "ci/cluster/node": true, "cite": false,
	} {
		if got := covered(places, own); got != want {
			t.Errorf("%s: covered is %t", own, got)
		}
	}
}

// mapLine is a line of the map: its indentation, one or more places, their purpose.
var mapLine = regexp.MustCompile(`(?m)^( {4}| {6})([a-z][\w/-]*(?:, ?[a-z][\w/-]*)*,?)(?: {2,}|$)`)

// placesOn are the folders that a map has, and whether folders in them are on it, too.
func placesOn(text string) map[string]bool {
	places := map[string]bool{}
	var room string
	for _, m := range mapLine.FindAllStringSubmatch(text, -1) {
		for name := range strings.SplitSeq(strings.TrimSuffix(m[2], ","), ",") {
			name = path.Clean(strings.TrimSpace(name))
			if len(m[1]) == 4 {
				room = name
				places[name] = false
				continue
			}
			places[room] = true
			places[path.Join(room, name)] = false
		}
	}
	return places
}

// covered tells whether a package is on the map, by itself or as a part of a place that has no smaller ones on it.
func covered(places map[string]bool, own string) bool {
	if _, itself := places[own]; itself {
		return true
	}
	for dir := path.Dir(own); dir != "."; dir = path.Dir(dir) {
		if divided, there := places[dir]; there {
			return !divided
		}
	}
	return false
}
