package buildpack

import (
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// builderName is the step in provenance.
const builderName = "buildpacks-build"

// attest puts provenance and bills of materials beside the image, and returns the layout's root: the image itself,
// where neither is wanted.
func (s *sealing) attest(layout imagelayout.Dir, image v1.Descriptor) (v1.Descriptor, error) {
	base, err := attestation.Image(s.base.Reference, *image.Platform)
	if err != nil {
		return image, err
	}
	buildpacks, err := s.used()
	if err != nil {
		return image, err
	}
	var predicates []attestation.Predicate
	var bills []string
	switch s.in.SBOM {
	case attestation.SBOMFinal:
		bills = []string{launchBills}
	case attestation.SBOMAll:
		bills = []string{launchBills, buildBills}
	}
	for _, kind := range bills {
		document, err := s.list(kind, image.Digest, base, buildpacks)
		if err != nil {
			return image, err
		}
		predicates = append(predicates, attestation.Predicate{Type: attestation.SPDX, Content: document})
	}
	if s.in.Provenance != attestation.ProvenanceNone {
		predicates = append(predicates, attestation.Predicate{
			Type: attestation.Provenance, Content: s.provenance(image, base, buildpacks),
		})
	}
	if predicates == nil {
		image.Platform = nil
		return image, nil
	}
	return attestation.Attach(layout, image, predicates...)
}

// used are the buildpacks that built. The builder has each of them, so what they are is certain; which of them built,
// the build tells.
func (s *sealing) used() ([]attestation.Resource, error) {
	group, err := readGroup(layersDir)
	if err != nil {
		return nil, err
	}
	var used []attestation.Resource
	for _, g := range group.Group {
		used = append(used, attestation.Resource{
			URI:         "urn:cnb:builder:" + g.ID + "@" + g.Version,
			Annotations: map[string]string{attestation.ToldBy: attestation.TheBuild},
		})
	}
	return used, nil
}

// provenance says how the image was made. All of it is of this program, which no code of the build reaches, but for
// what is marked.
func (s *sealing) provenance(
	image v1.Descriptor, base attestation.Resource, buildpacks []attestation.Resource,
) attestation.SLSA {
	dependencies := attestation.Source(s.revision)
	if s.in.BuilderImage != "" {
		builder, err := attestation.Image(s.in.BuilderImage, *image.Platform)
		if err != nil {
			s.env.Log.Warn("The provenance does not tell the builder image", "because", err)
		} else {
			dependencies = append(dependencies, builder)
		}
	}
	provenance := attestation.SLSA{
		BuildDefinition: attestation.BuildDefinition{
			BuildType: attestation.BuildpacksBuild,
			ExternalParameters: attestation.Parameters{
				Component:  attestation.ComponentOf(s.in.Owner),
				Repository: attestation.RepositoryOf(s.revision, s.in.AppPath),
				BuildEnv:   attestation.Variables(s.in.BuildEnv, s.in.Provenance),
				Labels:     s.in.Labels,
			},
			InternalParameters: map[string]string{
				"builderImage": s.in.BuilderImage, "runImage": s.in.RunImage, "platformAPI": s.builder.api,
				"platform": image.Platform.String(),
			},
			ResolvedDependencies: append(append(dependencies, base), buildpacks...),
		},
		RunDetails: attestation.RunDetails{Builder: attestation.BuilderOf(builderName)},
	}
	if s.epoch.IsZero() { // else one commit has one digest
		provenance.RunDetails.Metadata = &attestation.Metadata{StartedOn: s.started, FinishedOn: time.Now().UTC()}
	}
	return provenance
}

// list is what buildpacks say of what the image holds, or of what they used.
func (s *sealing) list(
	kind string, image v1.Hash, base attestation.Resource, buildpacks []attestation.Resource,
) (attestation.Document, error) {
	list := attestation.List{
		Name: s.in.ImageName, Image: image, Made: s.epoch, Base: base, Buildpacks: buildpacks,
		Comment: map[string]string{
			launchBills: "What the image holds besides its base, as the buildpacks tell.",
			buildBills:  "What the build used, as the buildpacks tell.",
		}[kind] + " Packages with a sourceInfo are told by code of the build, and nobody has verified them.",
		Uses: kind == buildBills,
	}
	if list.Made.IsZero() {
		list.Made = s.started
	}
	bills := filepath.Join(s.in.Workspace.SBOM(), kind)
	if _, err := os.Stat(bills); err == nil {
		if err := list.Read(os.DirFS(bills)); err != nil {
			s.env.Log.Warn("The SBOM lacks what cannot be read", "because", quote.Text(err.Error(), 2000))
		}
	}
	if list.Len() == 0 && kind == launchBills {
		s.env.Log.Warn("No buildpack tells what it put into the image: the SBOM has no packages but the base")
	}
	return list.Document()
}
