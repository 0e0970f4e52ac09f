package attestation

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Document is a list of what is in an image, as SPDX 2.3 has it in JSON. The same bills give the same document,
// whatever their order.
type Document struct {
	SPDXVersion       string         `json:"spdxVersion"`
	DataLicense       string         `json:"dataLicense"`
	SPDXID            string         `json:"SPDXID"`
	Name              string         `json:"name"`
	DocumentNamespace string         `json:"documentNamespace"`
	CreationInfo      CreationInfo   `json:"creationInfo"`
	Packages          []*Package     `json:"packages"`
	Licenses          []License      `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships     []Relationship `json:"relationships"`
}

// CreationInfo says when and by what a document was made.
type CreationInfo struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
	Comment  string   `json:"comment,omitempty"`
}

// Package is a package of SPDX.
type Package struct {
	SPDXID           string        `json:"SPDXID"`
	Name             string        `json:"name"`
	Version          string        `json:"versionInfo,omitempty"`
	DownloadLocation string        `json:"downloadLocation"`
	FilesAnalyzed    bool          `json:"filesAnalyzed"`
	Purpose          string        `json:"primaryPackagePurpose,omitempty"`
	LicenseConcluded string        `json:"licenseConcluded"`
	LicenseDeclared  string        `json:"licenseDeclared"`
	Copyright        string        `json:"copyrightText"`
	Checksums        []Checksum    `json:"checksums,omitempty"`
	ExternalRefs     []ExternalRef `json:"externalRefs,omitempty"`
	SourceInfo       string        `json:"sourceInfo,omitempty"` // who tells of it
}

// Checksum is of a package.
type Checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

// ExternalRef is what others call a package.
type ExternalRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// License is one that SPDX has no name for.
type License struct {
	ID   string `json:"licenseId"`
	Name string `json:"name,omitempty"`
	Text string `json:"extractedText"`
}

// Relationship is between two packages, or a document and a package.
type Relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	noAssertion = "NOASSERTION"
	rootID      = "SPDXRef-Image"
	documentID  = "SPDXRef-DOCUMENT"
)

// List is a list of what is in an image while it is made.
type List struct {
	Name  string    // of the image's repository
	Image v1.Hash   // of its manifest
	Made  time.Time // when the image was made, for all that it tells

	Base       Resource   // the image that it stands on
	Buildpacks []Resource // that built it
	Comment    string     // who tells what
	Uses       bool       // whether the build used the packages, in place of the image holding them

	packages map[string]*listed // by what tells it from others
	licenses map[string]License
}

// listed is a package of a list, and who tells of it.
type listed struct {
	Package
	sources map[string]bool
}

// packageLimit is how many packages a list may have.
const packageLimit = 100_000

// sourcesLimit is of how many sources a package tells.
const sourcesLimit = 20

// Len is how many packages the list has.
func (l *List) Len() int { return len(l.packages) }

// add adds what a bill says of a package. Two packages are one if they have one package URL; without one, if they have
// name and version in common.
func (l *List) add(p Package, source string) {
	if l.packages == nil {
		l.packages = map[string]*listed{}
	}
	key := "name\x00" + p.Name + "\x00" + p.Version
	if url := purlOf(p.ExternalRefs); url != "" {
		key = "purl\x00" + url
	}
	known, ok := l.packages[key]
	switch {
	case !ok && len(l.packages) == packageLimit:
		return
	case !ok:
		known = &listed{p, map[string]bool{}}
		l.packages[key] = known
	default:
		// Whichever bill is read first, the result is the same.
		known.Name, known.Version = max(known.Name, p.Name), max(known.Version, p.Version)
		known.LicenseDeclared = stated(known.LicenseDeclared, p.LicenseDeclared)
		known.DownloadLocation = stated(known.DownloadLocation, p.DownloadLocation)
		known.Copyright = stated(known.Copyright, p.Copyright)
		known.Checksums = append(known.Checksums, p.Checksums...)
		known.ExternalRefs = append(known.ExternalRefs, p.ExternalRefs...)
	}
	known.sources[source] = true
}

// packageID is the name of a package in a document.
func packageID(key, name string) string {
	sum := sha256.Sum256([]byte(key))
	name = unnamable.ReplaceAllString(name, "-")
	return "SPDXRef-Package-" + strings.Trim(name[:min(len(name), 80)], "-") + "-" + hex.EncodeToString(sum[:8])
}

// stated is what one of two bills states; of two statements, the greater text.
func stated(a, b string) string {
	if a == noAssertion || a == "" || b != noAssertion && b > a {
		a = b
	}
	return cmp.Or(a, noAssertion)
}

var unnamable = regexp.MustCompile(`[^A-Za-z0-9.]+`)

// Document is the list as a document of SPDX.
func (l *List) Document() (Document, error) {
	d := Document{
		SPDXVersion: "SPDX-2.3", DataLicense: "CC0-1.0", SPDXID: documentID, Name: l.Name,
		CreationInfo: CreationInfo{
			Created:  l.Made.UTC().Format(time.RFC3339),
			Creators: []string{"Tool: stepwright-" + Version()},
			Comment:  l.Comment,
		},
	}
	d.describe(Package{
		SPDXID: rootID, Name: l.Name, Version: l.Image.String(), Purpose: "CONTAINER",
		Checksums: []Checksum{{algorithm(l.Image.Algorithm), l.Image.Hex}},
	})
	d.Relationships = append(d.Relationships, Relationship{documentID, "DESCRIBES", rootID})
	if l.Base.URI != "" {
		base := ofResource("SPDXRef-Base", l.Base)
		base.Purpose = "CONTAINER"
		d.describe(base)
		d.Relationships = append(d.Relationships, Relationship{rootID, "DESCENDANT_OF", base.SPDXID})
	}
	for _, b := range l.Buildpacks {
		pack := ofResource("SPDXRef-Buildpack-"+unnamable.ReplaceAllString(b.URI, "-"), b)
		d.describe(pack)
		d.Relationships = append(d.Relationships, Relationship{pack.SPDXID, "BUILD_TOOL_OF", rootID})
	}
	for _, key := range slices.Sorted(maps.Keys(l.packages)) {
		p := l.packages[key].Package
		told := slices.Sorted(maps.Keys(l.packages[key].sources))
		p.SPDXID, p.SourceInfo = packageID(key, p.Name), strings.Join(told[:min(len(told), sourcesLimit)], "; ")
		d.describe(p)
		if l.Uses {
			d.Relationships = append(d.Relationships, Relationship{p.SPDXID, "BUILD_DEPENDENCY_OF", rootID})
		} else {
			d.Relationships = append(d.Relationships, Relationship{rootID, "CONTAINS", p.SPDXID})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.licenses)) {
		d.Licenses = append(d.Licenses, l.licenses[id])
	}
	// The namespace is to be unique for each document, and the same for the same.
	raw, err := json.Marshal(d)
	if err != nil {
		return d, err
	}
	sum := sha256.Sum256(raw)
	d.DocumentNamespace = "https://stepwright.dev/spdx/" + hex.EncodeToString(sum[:])
	return d, nil
}

// describe adds a package, with all that SPDX wants of one.
func (d *Document) describe(p Package) {
	p.Name = cmp.Or(p.Name, noAssertion)
	p.DownloadLocation = cmp.Or(p.DownloadLocation, noAssertion)
	p.LicenseConcluded, p.LicenseDeclared = noAssertion, cmp.Or(p.LicenseDeclared, noAssertion)
	p.Copyright = cmp.Or(p.Copyright, noAssertion)
	slices.SortFunc(p.Checksums, func(a, b Checksum) int {
		return cmp.Or(cmp.Compare(a.Algorithm, b.Algorithm), cmp.Compare(a.Value, b.Value))
	})
	p.Checksums = slices.Compact(p.Checksums)
	slices.SortFunc(p.ExternalRefs, func(a, b ExternalRef) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Locator, b.Locator))
	})
	p.ExternalRefs = slices.Compact(p.ExternalRefs)
	d.Packages = append(d.Packages, &p)
}

// ofResource is a package that is known as a resource of the build.
func ofResource(id string, r Resource) Package {
	p := Package{SPDXID: id, Name: r.URI}
	p.purl(r.URI)
	for _, name := range slices.Sorted(maps.Keys(r.Digest)) {
		p.Checksums = append(p.Checksums, Checksum{algorithm(name), r.Digest[name]})
	}
	return p
}

const (
	purlCategory = "PACKAGE-MANAGER"
	purlType     = "purl"
	cpeCategory  = "SECURITY"
	cpeType      = "cpe23Type"
)

// algorithms are those that SPDX knows, by their names without punctuation.
var algorithms = map[string]string{
	"MD5": "MD5", "SHA1": "SHA1", "SHA224": "SHA224", "SHA256": "SHA256", "SHA384": "SHA384", "SHA512": "SHA512",
	"SHA3256": "SHA3-256", "SHA3384": "SHA3-384", "SHA3512": "SHA3-512", "BLAKE2B256": "BLAKE2b-256",
	"BLAKE2B384": "BLAKE2b-384", "BLAKE2B512": "BLAKE2b-512", "BLAKE3": "BLAKE3",
}

// algorithm is SPDX's name of an algorithm of digests; empty for one that it does not know.
func algorithm(name string) string {
	return algorithms[strings.ToUpper(strings.ReplaceAll(name, "-", ""))]
}
