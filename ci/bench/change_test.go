package bench

import (
	"os/exec"
	"testing"
)

// BenchmarkChange measures what a change of a source costs until its image is in the registry: from a pod that has
// nothing, and by a daemon that has built the source before. BuildKit's own client with a warm daemon is the limit.
//
// An application's changes follow each other as commits do: each finds in the registry and in the daemons what the one
// before it has built. Each round builds a revision that was never built before, but for the unchanged ones.
func BenchmarkChange(b *testing.B) {
	for _, name := range []string{"podman", "runc", "go", "git"} {
		if _, err := exec.LookPath(name); err != nil {
			b.Skip(err)
		}
	}
	p := newPlace(b)
	for _, a := range applications(b) {
		b.Run(a.name, func(b *testing.B) {
			p.application, p.sources = a, map[revision]source{}
			ways := p.ways(b)
			for _, change := range changes {
				done := b.Run(change.name, func(b *testing.B) {
					var list []contender
					for _, w := range ways {
						if !w.coldOnly || change.name == cold {
							list = append(list, contender{w.name, func(b *testing.B) trial {
								return w.next(b, change)
							}})
						}
					}
					contest{list}.run(b)
				})
				if !done { // the next one would follow it
					break
				}
			}
			for _, w := range ways {
				w.stop()
			}
			p.clean(b, p.dir)
		})
	}
}
