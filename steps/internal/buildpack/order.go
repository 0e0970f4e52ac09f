package buildpack

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/buildpacks/pack/pkg/project/types"
)

// How project.toml names buildpacks, as pack reads it: all of the builder's in their order, one of the builder's, and
// others, which the step does not fetch.
const (
	builderOrder   = "from=builder"
	builderPrefix  = "urn:cnb:builder:"
	oldPrefix      = "from=builder:"
	registryPrefix = "urn:cnb:registry:"
	dockerPrefix   = "docker:/"
)

var (
	uriForm      = regexp.MustCompile(`^.+:/`)
	registryForm = regexp.MustCompile(`^[a-z0-9.-]+/[a-z0-9.-]+(@[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*)?$`)
)

// orderElement is a buildpack in an order, and orderGroup are those that go together.
type orderElement struct {
	ID       string `toml:"id"`
	Version  string `toml:"version"`
	Optional bool   `toml:"optional,omitempty"`
}

type orderGroup struct {
	Group []orderElement `toml:"group"`
}

// order returns the groups of buildpacks that project.toml asks for; none when it asks for none, and the builder's own
// order counts. app is the application's folder. All faults are in the error.
func (p *project) order(b *builder, app string) ([]orderGroup, error) {
	r := references{builder: b, app: app}
	var chosen []orderGroup
	if len(p.Buildpacks) > 0 {
		chosen = r.group(p.Buildpacks)
	} else if len(p.Pre.Buildpacks)+len(p.Post.Buildpacks) > 0 {
		chosen = r.builderOrder()
		for _, asked := range p.Pre.Buildpacks { // the last one comes first, as with pack
			if e, ok := r.one(asked); ok {
				chosen = joined([]orderGroup{{[]orderElement{e}}}, chosen)
			}
		}
		for _, asked := range p.Post.Buildpacks {
			if e, ok := r.one(asked); ok {
				chosen = joined(chosen, []orderGroup{{[]orderElement{e}}})
			}
		}
	}
	if len(r.faults) > 0 {
		return nil, invalidProject("%s", strings.Join(r.faults, "; ")).WithHint(
			"Name buildpacks of the builder by id, or ask the platform engineer for a builder that has the others. " +
				"This one has " + strings.Join(b.ids(), ", ") + ".",
		)
	}
	return chosen, nil
}

// joined is each group of one order followed by each of another.
func joined(before, after []orderGroup) (all []orderGroup) {
	for _, first := range before {
		for _, then := range after {
			all = append(all, orderGroup{slices.Concat(first.Group, then.Group)})
		}
	}
	return all
}

// references finds what project.toml names, and collects the faults.
type references struct {
	builder *builder
	app     string
	faults  []string
}

func (r *references) fault(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// group is the order of a list of buildpacks: one group, or where the builder's order is part of it, one for each of
// the builder's.
func (r *references) group(asked []types.Buildpack) []orderGroup {
	order, whole := []orderGroup{{}}, false
	for _, one := range asked {
		if locator(one) == builderOrder {
			if whole {
				r.fault("%s is there twice", builderOrder)
				continue
			}
			whole, order = true, joined(order, r.builderOrder())
			continue
		}
		if e, ok := r.one(one); ok {
			order = joined(order, []orderGroup{{[]orderElement{e}}})
		}
	}
	return order
}

// locator is what a buildpack is named by.
func locator(asked types.Buildpack) string {
	if asked.URI == "" && asked.Version != "" {
		return asked.ID + "@" + asked.Version
	}
	return cmp.Or(asked.URI, asked.ID)
}

// one finds one of the builder's buildpacks.
func (r *references) one(asked types.Buildpack) (found orderElement, ok bool) {
	name := locator(asked)
	if asked.Script.Inline != "" && asked.URI == "" {
		r.fault("buildpack %q has an inline script, which is not run: put it into a buildpack of the builder", asked.ID)
		return found, false
	}
	own, isOwn := strings.CutPrefix(name, builderPrefix)
	if !isOwn {
		own, isOwn = strings.CutPrefix(name, oldPrefix)
	}
	switch {
	case asked.ID == "" && asked.URI == "":
		r.fault("a buildpack has no id")
		return found, false
	case name == builderOrder:
		r.fault("%s belongs into group, and not before or after the builder's buildpacks", builderOrder)
		return found, false
	case isOwn:
	case strings.HasPrefix(name, registryPrefix):
		r.fault("buildpack %s is of the buildpack registry, which is not asked", name)
		return found, false
	case strings.HasPrefix(name, dockerPrefix):
		r.fault("buildpack %s is an image of its own, which is not fetched", name)
		return found, false
	case uriForm.MatchString(name):
		r.fault("buildpack %s is not in the builder, and is not fetched", name)
		return found, false
	case asked.URI != "" && r.isFile(name):
		r.fault("buildpack %s is a path of the repository, from which no buildpack is taken", name)
		return found, false
	}
	return r.own(name, own)
}

// own finds a buildpack of the builder by ID or ID@version.
func (r *references) own(name, text string) (found orderElement, ok bool) {
	id, version := text, ""
	if parts := strings.Split(text, "@"); len(parts) == 2 {
		id, version = parts[0], parts[1]
	}
	var versions []string
	for _, has := range r.builder.buildpacks {
		if has.ID == id && (version == "" || version == has.Version) {
			versions = append(versions, has.Version)
		}
	}
	switch {
	case len(versions) == 1:
		return orderElement{ID: id, Version: versions[0]}, true
	case len(versions) > 1:
		r.fault("the builder has buildpack %s in versions %s: name one", id, strings.Join(versions, ", "))
	case r.isFile(text):
		r.fault("buildpack %s is a path of the repository, from which no buildpack is taken", name)
	case registryForm.MatchString(text):
		r.fault("the builder has no buildpack %s, and the buildpack registry is not asked", name)
	default:
		r.fault("the builder has no buildpack %s", name)
	}
	return found, false
}

// isFile tells whether something is in the repository under that name, relative to the application.
func (r *references) isFile(name string) bool {
	if !filepath.IsAbs(name) {
		name = filepath.Join(r.app, name)
	}
	_, err := os.Lstat(name)
	return err == nil
}

// builderOrder is the order in which the builder tries its buildpacks.
func (r *references) builderOrder() []orderGroup {
	path := cmp.Or(os.Getenv("CNB_ORDER_PATH"), defaultOrder)
	var file struct {
		Order []orderGroup `toml:"order"`
	}
	if _, err := toml.DecodeFile(path, &file); err != nil {
		r.fault("the builder's own order cannot be read: %v", err)
	}
	return file.Order
}

// writeOrder writes groups of buildpacks as the lifecycle's order, and returns the file's path; empty when there are
// none.
func writeOrder(groups []orderGroup, dir string) (string, error) {
	if len(groups) == 0 {
		return "", nil
	}
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(map[string]any{"order": groups}); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "order.toml")
	return path, os.WriteFile(path, text.Bytes(), 0o644)
}

func (b *builder) ids() []string {
	var all []string
	for _, pack := range b.buildpacks {
		all = append(all, pack.ID+" "+pack.Version)
	}
	return all
}
