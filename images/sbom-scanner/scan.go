package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/anchore/syft/syft"
	"github.com/anchore/syft/syft/cataloging"
	"github.com/anchore/syft/syft/cataloging/pkgcataloging"
	"github.com/anchore/syft/syft/format/common/spdxhelpers"
	"github.com/anchore/syft/syft/source"
	"github.com/anchore/syft/syft/source/directorysource"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	_ "modernc.org/sqlite" // the databases of RPM
)

// The variables of BuildKit's protocol.
const (
	sourceVariable      = "BUILDKIT_SCAN_SOURCE"        // the file system of the image
	extrasVariable      = "BUILDKIT_SCAN_SOURCE_EXTRAS" // a folder of those of stages and contexts; may be absent
	destinationVariable = "BUILDKIT_SCAN_DESTINATION"   // the folder of the lists
)

// run scans what the variables name.
func run(ctx context.Context, variable func(string) string) error {
	core, into := variable(sourceVariable), variable(destinationVariable)
	if core == "" || into == "" {
		return fmt.Errorf("%s and %s must be set: BuildKit does it", sourceVariable, destinationVariable)
	}
	targets := []string{core}
	if extras := variable(extrasVariable); extras != "" {
		entries, err := os.ReadDir(extras)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, entry := range entries {
			targets = append(targets, filepath.Join(extras, entry.Name()))
		}
	}
	for _, target := range targets {
		list, err := scan(ctx, target)
		if err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		raw, err := json.Marshal(statement{inToto, predicateType, list})
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(into, filepath.Base(target)+".spdx.json"), raw, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// statement is a list as BuildKit takes it, which its description of the protocol does not tell: a statement of in-toto
// without a subject.
type statement struct {
	Type          string          `json:"_type"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

const (
	inToto        = "https://in-toto.io/Statement/v0.1"
	predicateType = "https://spdx.dev/Document"
)

// scan lists the packages that are installed in a file system, as SPDX 2.3.
func scan(ctx context.Context, dir string) ([]byte, error) {
	name := filepath.Base(dir)
	src, err := directorysource.New(directorysource.Config{
		Path: dir, Base: dir, Alias: source.Alias{Name: name}, // so that no path is the machine's
	})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	// What is installed, as in an image: a lock file that lies about is no package.
	config := syft.DefaultCreateSBOMConfig().WithTool("syft", version()).WithoutFiles().WithCatalogerSelection(
		cataloging.NewSelectionRequest().WithDefaults(pkgcataloging.ImageTag),
	)
	found, err := syft.CreateSBOM(ctx, src, config)
	if err != nil {
		return nil, err
	}
	document := spdxhelpers.ToFormatModel(*found)
	if document == nil {
		return nil, errors.New("it cannot be told in SPDX")
	}
	return encode(document, name)
}

// version is the version of syft that is linked.
func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, module := range info.Deps {
		if module.Path == "github.com/anchore/syft" {
			return module.Version
		}
	}
	return "unknown"
}

// noTime stands where a list has a time: the same file system gives the same list.
const noTime = "1970-01-01T00:00:00Z"

// encode writes a document without what differs from scan to scan, and without single files, which are in the image's
// layers anyway.
func encode(document *spdx.Document, name string) ([]byte, error) {
	document.DocumentName, document.DocumentNamespace = name, ""
	document.CreationInfo.Created = noTime
	document.Files = nil
	elements := map[spdx.ElementID]bool{"DOCUMENT": true}
	for _, p := range document.Packages {
		p.Files, p.FilesAnalyzed, p.PackageVerificationCode = nil, false, nil
		elements[p.PackageSPDXIdentifier] = true
	}
	document.Relationships = slices.DeleteFunc(document.Relationships, func(r *spdx.Relationship) bool {
		return !elements[r.RefA.ElementRefID] || !elements[r.RefB.ElementRefID]
	})
	slices.SortFunc(document.Packages, func(a, b *spdx.Package) int {
		return cmp.Compare(a.PackageSPDXIdentifier, b.PackageSPDXIdentifier)
	})
	slices.SortFunc(document.Relationships, func(a, b *spdx.Relationship) int {
		return cmp.Or(
			cmp.Compare(a.RefA.ElementRefID, b.RefA.ElementRefID), cmp.Compare(a.Relationship, b.Relationship),
			cmp.Compare(a.RefB.ElementRefID, b.RefB.ElementRefID),
		)
	})
	slices.SortFunc(document.OtherLicenses, func(a, b *spdx.OtherLicense) int {
		return cmp.Compare(a.LicenseIdentifier, b.LicenseIdentifier)
	})
	var text bytes.Buffer
	if err := spdxjson.Write(document, &text); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text.Bytes())
	document.DocumentNamespace = "https://stepwright.dev/spdx/" + hex.EncodeToString(sum[:])
	text.Reset()
	err := spdxjson.Write(document, &text)
	return text.Bytes(), err
}
