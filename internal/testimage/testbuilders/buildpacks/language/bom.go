package language

import (
	"cmp"
	"encoding/json"
	"os"
	"slices"
)

// A Component is a part of the image in its bill of materials.
type Component struct {
	Type    string `json:"type"` // of CycloneDX: library, platform, application
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	PURL    string `json:"purl,omitempty"` // package URL
}

// writeBOM writes a bill of materials in CycloneDX: without time and serial number, so that two builds write the same.
func writeBOM(path string, components []Component) error {
	components = slices.Clone(components)
	slices.SortFunc(components, func(a, b Component) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	content, err := json.Marshal(struct {
		Format     string      `json:"bomFormat"`
		Spec       string      `json:"specVersion"`
		Version    int         `json:"version"`
		Components []Component `json:"components"`
	}{"CycloneDX", "1.4", 1, append([]Component{}, components...)})
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
