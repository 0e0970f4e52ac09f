package attestation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// formats are the forms in which buildpacks write bills of materials, by the ends of their files' names (CNB buildpack
// specification). Most buildpacks write the same bill in several: the first one is read, which loses least.
var formats = []struct {
	suffix string
	read   func([]byte, *List, string) error
}{
	{"sbom.spdx.json", readSPDX}, {"sbom.cdx.json", readCycloneDX}, {"sbom.syft.json", readSyft},
}

// Read adds all bills of materials below a folder, which has a folder for each buildpack. Where the list knows the
// buildpacks that built, folders of others are left out: none of them has written there. What cannot be read is left
// out, and the error tells of it: the list is good for what it has.
func (l *List) Read(bills fs.FS) error {
	var faults []error
	err := fs.WalkDir(bills, ".", func(dir string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		if buildpack, _, _ := strings.Cut(dir, "/"); dir != "." && !l.built(buildpack) {
			faults = append(faults, fmt.Errorf("%s: no such buildpack built the image", buildpack))
			return fs.SkipDir
		}
		var broken []error
		for _, format := range formats {
			file := path.Join(dir, format.suffix)
			raw, err := fs.ReadFile(bills, file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = format.read(raw, l, source(dir))
			}
			if err == nil {
				break
			}
			broken = append(broken, fmt.Errorf("%s: %w", file, err))
		}
		faults = append(faults, broken...)
		return nil
	})
	if l.Len() == packageLimit {
		faults = append(faults, fmt.Errorf("there are more than %d packages", packageLimit))
	}
	return errors.Join(append(faults, err)...)
}

// built tells whether the folder of a bill is of a buildpack that built, as far as that is known.
func (l *List) built(folder string) bool {
	return len(l.Buildpacks) == 0 || slices.ContainsFunc(l.Buildpacks, func(b Resource) bool {
		id, _, _ := strings.Cut(strings.TrimPrefix(b.URI, "urn:cnb:builder:"), "@")
		return strings.ReplaceAll(id, "/", "_") == folder
	})
}

// source says who tells of a package, from the folder of its bill: the buildpack, and mostly its layer.
func source(dir string) string {
	buildpack, layer, _ := strings.Cut(dir, "/")
	text := "told by the buildpack " + strings.ReplaceAll(buildpack, "_", "/")
	if layer != "" {
		text += " of its layer " + layer
	}
	return text
}

var errForm = errors.New("it is not of the form that its name says")

// readSPDX reads a bill of SPDX 2.2 or 2.3.
func readSPDX(raw []byte, l *List, source string) error {
	var bill struct {
		Version  string    `json:"spdxVersion"`
		Packages []Package `json:"packages"`
		Licenses []License `json:"hasExtractedLicensingInfos"`
		// The packages that stand for what was looked at, and are in none.
		Describes     []string       `json:"documentDescribes"`
		Relationships []Relationship `json:"relationships"`
	}
	if err := json.Unmarshal(raw, &bill); err != nil {
		return err
	}
	if !strings.HasPrefix(bill.Version, "SPDX-2.") {
		return errForm
	}
	roots := map[string]bool{}
	for _, id := range bill.Describes {
		roots[id] = true
	}
	for _, r := range bill.Relationships {
		if r.From == documentID && r.Type == "DESCRIBES" {
			roots[r.To] = true
		}
	}
	extracted := map[string]License{}
	for _, license := range bill.Licenses {
		extracted[license.ID] = license
	}
	for _, p := range bill.Packages {
		if p.Name == "" || roots[p.SPDXID] && purlOf(p.ExternalRefs) == "" {
			continue
		}
		added := Package{
			Name: p.Name, Version: p.Version, Copyright: p.Copyright,
			DownloadLocation: location(p.DownloadLocation), LicenseDeclared: l.license(p.LicenseDeclared, extracted),
		}
		for _, c := range p.Checksums {
			added.checksum(c.Algorithm, c.Value)
		}
		for _, ref := range p.ExternalRefs {
			switch ref.Type {
			case purlType:
				added.purl(ref.Locator)
			case cpeType:
				added.cpe(ref.Locator)
			}
		}
		l.add(added, source)
	}
	return nil
}

// component is one of CycloneDX.
type component struct {
	Type     string `json:"type"`
	Group    string `json:"group"`
	Name     string `json:"name"`
	Version  string `json:"version"`
	PURL     string `json:"purl"`
	CPE      string `json:"cpe"`
	Licenses []struct {
		License struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"license"`
		Expression string `json:"expression"`
	} `json:"licenses"`
	Copyright string `json:"copyright"`
	Hashes    []struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	} `json:"hashes"`
	Components []component `json:"components"`
}

// readCycloneDX reads a bill of CycloneDX.
func readCycloneDX(raw []byte, l *List, source string) error {
	var bill struct {
		Format     string      `json:"bomFormat"`
		Components []component `json:"components"`
	}
	if err := json.Unmarshal(raw, &bill); err != nil {
		return err
	}
	if bill.Format != "CycloneDX" {
		return errForm
	}
	l.components(bill.Components, source)
	return nil
}

func (l *List) components(all []component, source string) {
	for _, c := range all {
		l.components(c.Components, source)
		if c.Name == "" || c.Type == "file" {
			continue
		}
		p := Package{Name: c.Name, Version: c.Version, Copyright: c.Copyright}
		if c.Group != "" {
			p.Name = c.Group + "/" + c.Name
		}
		var licenses []string
		for _, license := range c.Licenses {
			switch {
			case license.Expression != "":
				licenses = append(licenses, l.license(license.Expression, nil))
			case license.License.ID != "":
				licenses = append(licenses, l.license(license.License.ID, nil))
			case license.License.Name != "":
				licenses = append(licenses, l.named(license.License.Name))
			}
		}
		p.LicenseDeclared = conjunction(licenses)
		for _, hash := range c.Hashes {
			p.checksum(hash.Algorithm, hash.Content)
		}
		p.purl(c.PURL)
		p.cpe(c.CPE)
		l.add(p, source)
	}
}

// readSyft reads a bill of syft's own form.
func readSyft(raw []byte, l *List, source string) error {
	var bill struct {
		Schema struct {
			URL string `json:"url"`
		} `json:"schema"`
		Artifacts []struct {
			Name     string            `json:"name"`
			Version  string            `json:"version"`
			PURL     string            `json:"purl"`
			CPEs     []json.RawMessage `json:"cpes"`     // texts, or objects since schema 14
			Licenses []json.RawMessage `json:"licenses"` // texts, or objects since schema 8
		} `json:"artifacts"`
	}
	if err := json.Unmarshal(raw, &bill); err != nil {
		return err
	}
	if bill.Schema.URL == "" {
		return errForm
	}
	for _, artifact := range bill.Artifacts {
		if artifact.Name == "" {
			continue
		}
		p := Package{Name: artifact.Name, Version: artifact.Version}
		p.purl(artifact.PURL)
		for _, raw := range artifact.CPEs {
			var text string
			var object struct {
				CPE string `json:"cpe"`
			}
			if json.Unmarshal(raw, &text) != nil && json.Unmarshal(raw, &object) == nil {
				text = object.CPE
			}
			p.cpe(text)
		}
		var licenses []string
		for _, raw := range artifact.Licenses {
			var text string
			var object struct {
				Value      string `json:"value"`
				Expression string `json:"spdxExpression"`
			}
			switch {
			case json.Unmarshal(raw, &text) == nil && text != "":
				licenses = append(licenses, l.license(text, nil))
			case json.Unmarshal(raw, &object) == nil && object.Expression != "":
				licenses = append(licenses, l.license(object.Expression, nil))
			case object.Value != "":
				licenses = append(licenses, l.named(object.Value))
			}
		}
		p.LicenseDeclared = conjunction(licenses)
		l.add(p, source)
	}
	return nil
}

// conjunction is the expression of licenses that all count.
func conjunction(licenses []string) string {
	slices.Sort(licenses)
	licenses = slices.Compact(licenses)
	if len(licenses) > 1 {
		for i, license := range licenses {
			if strings.Contains(license, " ") {
				licenses[i] = "(" + license + ")"
			}
		}
	}
	return strings.Join(licenses, " AND ")
}

// license is an expression of licenses as SPDX has it. What is none becomes a license without a name in SPDX. extracted
// are the licenses for which a bill has names of its own.
func (l *List) license(text string, extracted map[string]License) string {
	switch text = strings.TrimSpace(text); text {
	case "", noAssertion, "NONE":
		return noAssertion
	}
	tokens := licenseTokens.FindAllString(text, -1)
	depth, operand := 0, false // whether one has just been read
	for i, token := range tokens {
		wanted := token == "AND" || token == "OR" || token == "WITH" || token == ")" // after an operand
		if wanted != operand {
			return l.named(text)
		}
		switch token {
		case "AND", "OR", "WITH":
			operand = false
		case "(":
			depth++
		case ")":
			depth--
		default:
			if !licenseName.MatchString(token) {
				return l.named(text)
			}
			operand = true
			if strings.HasPrefix(token, "LicenseRef-") {
				own, ok := extracted[token]
				if !ok {
					own.Text = token
				}
				tokens[i] = l.extracted(own)
			} else if strings.HasPrefix(token, "DocumentRef-") {
				return l.named(text)
			}
		}
		if depth < 0 {
			return l.named(text)
		}
	}
	if !operand || depth != 0 {
		return l.named(text)
	}
	return strings.NewReplacer("( ", "(", " )", ")").Replace(strings.Join(tokens, " "))
}

var (
	licenseTokens = regexp.MustCompile(`[()]|[^\s()]+`)
	licenseName   = regexp.MustCompile(`^[A-Za-z0-9.-]+\+?$`)
)

// named is a license that has but a name.
func (l *List) named(text string) string { return l.extracted(License{Name: text, Text: text}) }

// extracted is a license under a name that no other has.
func (l *List) extracted(license License) string {
	sum := sha256.Sum256([]byte(license.Name + "\x00" + license.Text))
	license.ID = "LicenseRef-" + hex.EncodeToString(sum[:8])
	if license.Text == "" {
		license.Text = license.Name
	}
	if l.licenses == nil {
		l.licenses = map[string]License{}
	}
	l.licenses[license.ID] = license
	return license.ID
}

// location is where a package is downloaded from, if the text is a place.
func location(text string) string {
	if place.MatchString(text) {
		return text
	}
	return noAssertion
}

var (
	place  = regexp.MustCompile(`^(git\+)?(https?|ssh|git)://\S+$`)
	digits = regexp.MustCompile(`^([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{56}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$`)
)

// checksum adds a checksum, if it is one.
func (p *Package) checksum(name, value string) {
	if name, value = algorithm(name), strings.ToLower(value); name != "" && digits.MatchString(value) {
		p.Checksums = append(p.Checksums, Checksum{name, value})
	}
}

// purl adds a package URL, if it is one.
func (p *Package) purl(text string) {
	if strings.HasPrefix(text, "pkg:") && !strings.ContainsAny(text, " \t\r\n") {
		p.ExternalRefs = append(p.ExternalRefs, ExternalRef{purlCategory, purlType, text})
	}
}

func purlOf(refs []ExternalRef) string {
	for _, ref := range refs {
		if ref.Type == purlType {
			return ref.Locator
		}
	}
	return ""
}

// cpe adds a name of the CPE dictionary, if it is one.
func (p *Package) cpe(text string) {
	if strings.HasPrefix(text, "cpe:2.3:") && !strings.ContainsAny(text, " \t\r\n") {
		p.ExternalRefs = append(p.ExternalRefs, ExternalRef{cpeCategory, cpeType, text})
	}
}
