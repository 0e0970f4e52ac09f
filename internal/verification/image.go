package verification

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
)

// Report is what is known of an image for sure.
type Report struct {
	Image      string     `json:"image"` // repository@digest
	Signatures []Signer   `json:"signatures"`
	Runs       []Run      `json:"runs"` // that published it: one commit has one digest, however often it is built
	Platforms  []Platform `json:"platforms"`
}

// Platform is an image for one platform.
type Platform struct {
	Platform    string       `json:"platform,omitempty"` // such as linux/amd64; empty where the image has no index
	Digest      string       `json:"digest"`
	Signatures  []Signer     `json:"signatures,omitempty"` // besides those of the index
	Provenances []Provenance `json:"provenance"`
	SBOMs       int          `json:"sboms"` // how many
	Other       []string     `json:"attestations,omitempty"`
}

const (
	bundleType    = "application/vnd.dev.sigstore.bundle.v0.3+json"
	maxBundle     = 64 << 20 // bytes
	maxReferrers  = 200      // of one manifest
	maxPlatforms  = 50
	maxComplaints = 5
)

// Verify verifies an image. At least one signature must be trusted; if something is expected of the run, a trusted
// statement of it must tell that, and for the rest each platform's image must have a trusted provenance that does. The
// error is an outcome.Error; where it is a VerificationFailed the report has what is known nevertheless.
func Verify(
	ctx context.Context, source registry.Source, reference string, trust *Trust, expected Expected,
) (Report, error) {
	raw, root, err := source.Manifest(ctx, reference)
	if err != nil {
		return Report{}, missing(err)
	}
	ref, err := name.ParseReference(reference, name.WeakValidation)
	if err != nil {
		return Report{}, outcome.Errorf(outcome.UsageError, "%w", err)
	}
	v := &verifying{source: source, trust: trust, repository: registry.Name(ref.Context().Name())}
	report := Report{Image: v.at(root.Digest), Signatures: []Signer{}, Runs: []Run{}, Platforms: []Platform{}}
	statements, complaints, err := v.statements(ctx, root.Digest)
	if err != nil {
		return report, err
	}
	for _, s := range statements {
		switch s.Predicate {
		case SignPredicate:
			report.Signatures = append(report.Signatures, s.Signer)
		case runPredicate:
			run, err := readRun(s)
			if err != nil {
				return report, outcome.Errorf(outcome.VerificationFailed, "a run of %s: %w", report.Image, err)
			}
			report.Runs = append(report.Runs, run)
		}
	}
	if report.Platforms, err = v.platforms(ctx, raw, root, statements); err != nil {
		return report, err
	}
	if len(report.Signatures) == 0 {
		return report, outcome.Errorf(
			outcome.VerificationFailed, "%s has no signature that is trusted%s", report.Image, complaints,
		)
	}
	return report, expected.check(report)
}

// missing says of an image that cannot be had that it is no base image.
func missing(err error) error {
	ours := outcome.Of(err)
	if ours.Reason != outcome.BaseImageUnavailable {
		return err
	}
	return outcome.Errorf(outcome.VerificationFailed, "%w", err).
		WithHint("Check the image's name, and the credentials for its registry.")
}

// verifying is the work on one image.
type verifying struct {
	source     registry.Source
	trust      *Trust
	repository string
}

func (v *verifying) at(digest v1.Hash) string { return v.repository + "@" + digest.String() }

// complaints say why bundles do not count.
type complaints []string

func (c complaints) String() string {
	switch {
	case len(c) == 0:
		return ": nothing that refers to it is one"
	case len(c) > maxComplaints:
		c = append(slices.Clone(c[:maxComplaints]), "…")
	}
	return ": " + strings.Join(c, "; ")
}

// statements are what trusted bundles say of a manifest, and why others do not count. That a bundle cannot be fetched
// for now is an error: its word may be the one that counts.
func (v *verifying) statements(ctx context.Context, about v1.Hash) (all []Statement, wrong complaints, err error) {
	referrers, err := v.source.Referrers(ctx, v.at(about))
	if err != nil {
		return nil, nil, err
	}
	for _, r := range referrers[:min(len(referrers), maxReferrers)] {
		content, err := v.bundle(ctx, r.Digest)
		if err != nil {
			if outcome.Of(err).Reason.Class() == outcome.Transient || ctx.Err() != nil {
				return nil, nil, err
			}
			wrong = append(wrong, fmt.Sprintf("%s: %v", r.Digest, err))
			continue
		}
		if content == nil {
			continue
		}
		statement, err := v.trust.Verify(content, about)
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", r.Digest, err))
			continue
		}
		all = append(all, statement)
	}
	return all, wrong, nil
}

// bundle fetches the bundle that a manifest holds; nil where it holds something else.
func (v *verifying) bundle(ctx context.Context, manifest v1.Hash) ([]byte, error) {
	raw, _, err := v.source.Manifest(ctx, v.at(manifest))
	if err != nil {
		return nil, err
	}
	var doc v1.Manifest
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	if len(doc.Layers) != 1 || doc.Layers[0].MediaType != bundleType {
		return nil, nil
	}
	if doc.Layers[0].Size > maxBundle {
		return nil, fmt.Errorf("its bundle has %d bytes, more than %d", doc.Layers[0].Size, maxBundle)
	}
	content, err := v.source.Open(ctx, v.at(manifest), doc.Layers[0].Digest)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	read, err := io.ReadAll(io.LimitReader(content, maxBundle+1))
	if err == nil && len(read) > maxBundle {
		err = errors.New("its bundle is larger than it says")
	}
	return read, err
}

// platforms are the images of an index with what trusted attestations tell of each; the one image where there is no
// index, of which statements are known.
func (v *verifying) platforms(
	ctx context.Context, raw []byte, root v1.Descriptor, statements []Statement,
) ([]Platform, error) {
	if !root.MediaType.IsIndex() {
		one, err := attested(Platform{Digest: root.Digest.String()}, statements)
		return []Platform{one}, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, outcome.Errorf(outcome.VerificationFailed, "index %s: %w", root.Digest, err)
	}
	all := []Platform{}
	for _, d := range index.Manifests {
		if !d.MediaType.IsImage() || d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if len(all) == maxPlatforms {
			return all, outcome.Errorf(
				outcome.VerificationFailed, "index %s has more than %d images", root.Digest, maxPlatforms,
			)
		}
		one := Platform{Digest: d.Digest.String()}
		if d.Platform != nil {
			one.Platform = d.Platform.String()
		}
		told, _, err := v.statements(ctx, d.Digest)
		if err != nil {
			return all, err
		}
		if one, err = attested(one, told); err != nil {
			return all, err
		}
		for _, s := range told {
			if s.Predicate == SignPredicate {
				one.Signatures = append(one.Signatures, s.Signer)
			}
		}
		all = append(all, one)
	}
	return all, nil
}

// attested adds to a platform's image what statements tell of it.
func attested(p Platform, statements []Statement) (Platform, error) {
	p.Provenances = []Provenance{}
	for _, s := range statements {
		switch {
		case s.Predicate == SignPredicate, s.Predicate == runPredicate:
		case strings.HasPrefix(s.Predicate, slsaPredicate):
			provenance, err := readProvenance(s)
			if err != nil {
				return p, outcome.Errorf(outcome.VerificationFailed, "the provenance of %s: %w", p.Digest, err)
			}
			p.Provenances = append(p.Provenances, provenance)
		case strings.HasPrefix(s.Predicate, spdxPredicate), strings.HasPrefix(s.Predicate, "https://cyclonedx.org/bom"):
			p.SBOMs++
		default:
			p.Other = append(p.Other, s.Predicate)
		}
	}
	return p, nil
}

// name is how messages call the image.
func (p Platform) name() string {
	if p.Platform == "" {
		return p.Digest
	}
	return p.Digest + " (" + p.Platform + ")"
}

// check wants a run, and a provenance of each image, that tell what is expected. It tells of all images that have none.
func (e Expected) check(r Report) error {
	e, err := e.checkRuns(r)
	if err != nil || !e.Any() {
		return err
	}
	if len(r.Platforms) == 0 {
		return outcome.Errorf(outcome.VerificationFailed, "%s has no image for any platform", r.Image)
	}
	var faults []string
	for _, p := range r.Platforms {
		if len(p.Provenances) == 0 {
			faults = append(faults, p.name()+" has no provenance that is signed by whom it should be")
			continue
		}
		var wrong []string
		for _, provenance := range p.Provenances {
			mismatch := e.mismatch(provenance)
			if mismatch == "" {
				wrong = nil
				break
			}
			wrong = append(wrong, mismatch)
		}
		if len(wrong) > 0 {
			faults = append(faults, p.name()+" was built otherwise than expected: "+strings.Join(wrong, "; "))
		}
	}
	if faults != nil {
		return outcome.Errorf(outcome.VerificationFailed, "%s", strings.Join(faults, "\n"))
	}
	return nil
}
