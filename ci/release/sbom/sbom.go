// Package sbom lists what a release's programs and images are made of, as SPDX 2.3: the modules that a program tells of
// itself, and the Debian packages whose files are in an image. The same program gives the same list.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// A Subject is what a list is about.
type Subject struct {
	Name    string    // of the file, or of the image
	Version string    // of the release
	Digest  string    // SHA-256 in hexadecimal
	Time    time.Time // of the commit
}

// A Program is a binary that Go built.
type Program struct {
	Name    string
	Content []byte
}

// A Package is a package of Debian that is in an image, or linked into a program of it.
type Package struct {
	Name, Version, Architecture string
}

// OfProgram returns the list of a binary that Go built. The subject's digest is the binary's.
func OfProgram(name string, content []byte, version string, commit time.Time) ([]byte, error) {
	sum := sha256.Sum256(content)
	d := begin(Subject{name, version, hex.EncodeToString(sum[:]), commit})
	if err := d.modules(d.root, Program{name, content}); err != nil {
		return nil, err
	}
	return d.bytes()
}

// OfImage returns the list of an image of one platform, with these programs and packages in it.
func OfImage(s Subject, programs []Program, packages []Package) ([]byte, error) {
	d := begin(s)
	for _, program := range programs {
		sum := sha256.Sum256(program.Content)
		id := d.add(&v2_3.Package{
			PackageName: program.Name, PackageVersion: s.Version,
			PackageChecksums: []common.Checksum{{Algorithm: common.SHA256, Value: hex.EncodeToString(sum[:])}},
		}, "program-"+program.Name)
		d.relate(d.root, "CONTAINS", id)
		if err := d.modules(id, program); err != nil {
			return nil, err
		}
	}
	for _, p := range packages {
		id := d.add(&v2_3.Package{
			PackageName: p.Name, PackageVersion: p.Version,
			PackageExternalReferences: purl(fmt.Sprintf(
				"pkg:deb/debian/%s@%s?arch=%s", p.Name, strings.ReplaceAll(p.Version, "+", "%2B"), p.Architecture,
			)),
		}, "deb-"+p.Name)
		d.relate(d.root, "CONTAINS", id)
	}
	return d.bytes()
}

// document is a list while it is made.
type document struct {
	v2_3.Document
	root common.ElementID
}

func begin(s Subject) *document {
	d := &document{Document: v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: s.Name,
		DocumentNamespace: fmt.Sprintf(
			"https://github.com/stepwright/stepwright/spdx/%s/%s-%s", s.Version, s.Name, s.Digest,
		),
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "stepwright/ci/release"}},
			Created:  s.Time.UTC().Format(time.RFC3339),
		},
	}}
	d.root = d.add(&v2_3.Package{
		PackageName: s.Name, PackageVersion: s.Version, PackageLicenseDeclared: "Apache-2.0",
		PackageDownloadLocation: "https://github.com/stepwright/stepwright/releases/tag/v" + s.Version,
		PackageChecksums:        []common.Checksum{{Algorithm: common.SHA256, Value: s.Digest}},
	}, "subject")
	d.relate("DOCUMENT", "DESCRIBES", d.root)
	return d
}

// modules adds the modules that a program was built of, and Go's standard library.
func (d *document) modules(of common.ElementID, program Program) error {
	info, err := buildinfo.Read(bytes.NewReader(program.Content))
	if err != nil {
		return fmt.Errorf("%s: %w", program.Name, err)
	}
	type module struct{ path, version string }
	all := []module{{"stdlib", strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, module{m.Path, m.Version})
	}
	if info.Main.Version != "(devel)" && info.Main.Version != "" {
		all = append(all, module{info.Main.Path, info.Main.Version}) // such as runc, which is not ours
	}
	slices.SortFunc(all, func(a, b module) int {
		return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.version, b.version))
	})
	for _, m := range all {
		id := d.add(&v2_3.Package{
			PackageName: m.path, PackageVersion: m.version,
			PackageExternalReferences: purl("pkg:golang/" + strings.ToLower(m.path) + "@" + m.version),
		}, "go-"+m.path+"-"+m.version)
		d.relate(of, "DEPENDS_ON", id)
	}
	return nil
}

func purl(locator string) []*v2_3.PackageExternalReference {
	return []*v2_3.PackageExternalReference{{
		Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: locator,
	}}
}

var unnamable = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// add adds a package unless it is there, and returns its identifier.
func (d *document) add(p *v2_3.Package, name string) common.ElementID {
	p.PackageSPDXIdentifier = common.ElementID(unnamable.ReplaceAllString(name, "-"))
	p.PackageLicenseConcluded, p.PackageCopyrightText = "NOASSERTION", "NOASSERTION"
	p.PackageLicenseDeclared = cmp.Or(p.PackageLicenseDeclared, "NOASSERTION")
	p.PackageDownloadLocation = cmp.Or(p.PackageDownloadLocation, "NOASSERTION")
	if !slices.ContainsFunc(d.Packages, func(other *v2_3.Package) bool {
		return other.PackageSPDXIdentifier == p.PackageSPDXIdentifier
	}) {
		d.Packages = append(d.Packages, p)
	}
	return p.PackageSPDXIdentifier
}

func (d *document) relate(a common.ElementID, how string, b common.ElementID) {
	d.Relationships = append(d.Relationships, &v2_3.Relationship{
		RefA: common.MakeDocElementID("", string(a)), Relationship: how, RefB: common.MakeDocElementID("", string(b)),
	})
}

func (d *document) bytes() ([]byte, error) {
	var b bytes.Buffer
	err := spdxjson.Write(&d.Document, &b, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
	return b.Bytes(), err
}
