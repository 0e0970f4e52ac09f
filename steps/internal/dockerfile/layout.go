package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/util/purl"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/stepwright/stepwright/steps/internal/attestation"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// sealed is a layout that is fit to be published.
type sealed struct {
	digest string   // of its root
	bases  []string // the images that BuildKit resolved for it, sorted, as name:tag@digest

	layers []datedLayer // of the image, as far as what became of them would become of them again
}

// seal makes a layout fit to be published: nothing but blobs, oci-layout and an index with one root. Provenance gets
// the image as its subject, which BuildKit leaves out for an image that has no name yet, and what the step knows and
// BuildKit does not; or it is taken out, when it is not to be kept, and the image alone is the root. The base images
// are from the provenance.
//
// For a reproducible build, it takes out of the provenance what differs between two builds of one commit (see
// timeless), so that the root's digest is the same, too: BuildKit has no option for that. And it gives the image the
// commit's time (see date).
func seal(dir string, dates dates, known known) (sealed, error) {
	l := layout{
		Dir: imagelayout.Dir(dir), dates: dates, known: known, bases: []string{},
		dated: map[string]ocispec.Descriptor{}, anew: map[digest.Digest]datedLayer{},
		gone: map[digest.Digest]bool{}, kept: map[digest.Digest]bool{},
	}
	var top ocispec.Index
	if err := l.ReadIndex(&top); err != nil {
		return sealed{}, err
	}
	if len(top.Manifests) != 1 {
		return sealed{}, fmt.Errorf("the builder's layout has %d roots instead of one", len(top.Manifests))
	}
	root := top.Manifests[0]
	if root.MediaType == ocispec.MediaTypeImageIndex {
		inside, err := l.sealIndex(root)
		if err == nil && l.attestations == 0 {
			inside, err = l.unwrap(inside)
		}
		if err != nil {
			return sealed{}, err
		}
		root = inside
	} else {
		var err error
		if root, err = l.date(root); err != nil {
			return sealed{}, err
		}
	}
	slices.Sort(l.bases)
	return sealed{root.Digest.String(), slices.Compact(l.bases), l.layers}, errors.Join(
		l.tidy(),
		l.WriteIndex(root),
		os.RemoveAll(filepath.Join(dir, "ingest")), // containerd's, for blobs on their way
	)
}

// layout is the one that the builder has left.
type layout struct {
	imagelayout.Dir
	dates dates
	known known

	attestations int      // how many statements are kept
	bases        []string // those that the provenance tells

	dated  map[string]ocispec.Descriptor // manifests that were dated, by the digests that they had
	layers []datedLayer                  // of these manifests, each once

	// Images for several platforms have blobs in common, so none goes before all of them are sealed.
	anew map[digest.Digest]datedLayer // layers that were written anew, by the digests that they had
	gone map[digest.Digest]bool       // blobs that another took the place of
	kept map[digest.Digest]bool       // blobs that are needed, whatever else took the place of them
}

// replaceBlob writes content instead of the blob that old describes, and returns the description of the new one.
func (l *layout) replaceBlob(old ocispec.Descriptor, content []byte) (ocispec.Descriptor, error) {
	desc := old
	desc.Digest, desc.Size = digest.FromBytes(content), int64(len(content))
	l.gone[old.Digest], l.kept[desc.Digest] = true, true
	if desc.Digest == old.Digest {
		return desc, nil
	}
	return desc, l.WriteBlob(desc.Digest, content)
}

// tidy removes the blobs that are needed no more.
func (l *layout) tidy() error {
	for blob := range l.gone {
		if l.kept[blob] {
			continue
		}
		if err := os.Remove(l.Blob(blob)); err != nil {
			return err
		}
	}
	return nil
}

// unwrap takes the attestations out of an image index. Where it has one image, that is what is left, without an index.
func (l *layout) unwrap(root ocispec.Descriptor) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := l.ReadJSON(root.Digest, &index); err != nil {
		return root, err
	}
	drop := func(blob digest.Digest) {
		l.gone[blob] = true
		delete(l.kept, blob)
	}
	var images []ocispec.Descriptor
	for _, desc := range index.Manifests {
		if desc.Annotations[imagelayout.ReferenceType] != imagelayout.AttestationManifest {
			images = append(images, desc)
			continue
		}
		var manifest ocispec.Manifest
		if err := l.ReadJSON(desc.Digest, &manifest); err != nil {
			return root, err
		}
		drop(desc.Digest)
		drop(manifest.Config.Digest)
		for _, statement := range manifest.Layers {
			drop(statement.Digest)
		}
	}
	switch len(images) {
	case 0:
		return root, errors.New("the builder's index has no image")
	case 1:
		drop(root.Digest)
		return ocispec.Descriptor{
			MediaType: images[0].MediaType, Digest: images[0].Digest, Size: images[0].Size,
		}, nil
	}
	index.Manifests = images
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return root, err
	}
	delete(l.kept, root.Digest)
	return l.replaceBlob(root, raw)
}

// sealIndex seals the provenance of an image index.
func (l *layout) sealIndex(root ocispec.Descriptor) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := l.ReadJSON(root.Digest, &index); err != nil {
		return root, err
	}
	for i, desc := range index.Manifests {
		if desc.Annotations[imagelayout.ReferenceType] == imagelayout.AttestationManifest {
			continue
		}
		dated, err := l.date(desc)
		if err != nil {
			return root, err
		}
		index.Manifests[i] = dated
	}
	for i, desc := range index.Manifests {
		if desc.Annotations[imagelayout.ReferenceType] != imagelayout.AttestationManifest {
			continue
		}
		if dated, ok := l.dated[desc.Annotations[imagelayout.ReferenceDigest]]; ok {
			desc.Annotations[imagelayout.ReferenceDigest] = dated.Digest.String()
		}
		sealed, err := l.sealAttestations(desc)
		if err != nil {
			return root, err
		}
		index.Manifests[i] = sealed
	}
	raw, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return root, err
	}
	return l.replaceBlob(root, raw)
}

// date gives an image's configuration the image's time where BuildKit has put the time of files, which was all it could
// be told.
func (l *layout) date(desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	if l.dates.files == nil || l.dates.files.Equal(l.dates.image) && !l.dates.late {
		return desc, nil
	}
	var manifest ocispec.Manifest
	if err := l.ReadJSON(desc.Digest, &manifest); err != nil {
		return desc, err
	}
	// What is not known of a configuration is kept.
	var config map[string]json.RawMessage
	if err := l.ReadJSON(manifest.Config.Digest, &config); err != nil {
		return desc, err
	}
	var history []ocispec.History
	var created *time.Time
	var err error
	if err := json.Unmarshal(config["history"], &history); err != nil {
		return desc, fmt.Errorf("history of the image: %w", err)
	}
	if err := json.Unmarshal(config["created"], &created); err != nil {
		return desc, fmt.Errorf("creation of the image: %w", err)
	}
	if l.dates.late {
		if config["rootfs"], err = l.dateLayers(&manifest, history, config["rootfs"]); err != nil {
			return desc, err
		}
	}
	image := func(at *time.Time) *time.Time {
		if at != nil && at.Equal(*l.dates.files) {
			return &l.dates.image
		}
		return at
	}
	for i := range history {
		history[i].Created = image(history[i].Created)
		if history[i].Comment == imagelayout.MissingHistory {
			// It says there what made a layer, which is another thing when the layer comes from a cache.
			history[i].CreatedBy = "BuildKit"
		}
	}
	if config["history"], err = encode(history); err != nil {
		return desc, err
	}
	if config["created"], err = json.Marshal(image(created)); err != nil {
		return desc, err
	}
	raw, err := encode(config)
	if err != nil {
		return desc, err
	}
	if manifest.Config, err = l.replaceBlob(manifest.Config, raw); err != nil {
		return desc, err
	}
	if raw, err = json.MarshalIndent(manifest, "", "  "); err != nil {
		return desc, err
	}
	dated, err := l.replaceBlob(desc, raw)
	l.dated[desc.Digest.String()] = dated
	return dated, err
}

// encode is json.Marshal, but it leaves characters such as & as they are.
func encode(value any) (json.RawMessage, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(value)
	return bytes.TrimSpace(b.Bytes()), err
}

func (l *layout) sealAttestations(desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	var manifest ocispec.Manifest
	if err := l.ReadJSON(desc.Digest, &manifest); err != nil {
		return desc, err
	}
	if manifest.Subject != nil {
		if dated, ok := l.dated[manifest.Subject.Digest.String()]; ok {
			manifest.Subject.Digest, manifest.Subject.Size = dated.Digest, dated.Size
		}
	}
	image := digest.Digest(desc.Annotations[imagelayout.ReferenceDigest])
	if err := image.Validate(); err != nil {
		return desc, fmt.Errorf("attestations of image %q: %w", image, err)
	}
	// Without any statement that is kept, unwrap takes out the whole.
	keepAll := l.known.provenance || !slices.ContainsFunc(manifest.Layers, func(statement ocispec.Descriptor) bool {
		return statement.Annotations[imagelayout.PredicateType] != attestation.Provenance
	})
	var layers []ocispec.Descriptor
	var diffIDs []digest.Digest
	for _, statement := range manifest.Layers {
		raw, err := os.ReadFile(l.Blob(statement.Digest))
		if err != nil {
			return desc, err
		}
		switch statement.Annotations[imagelayout.PredicateType] {
		case attestation.Provenance:
			bases, err := baseImages(raw)
			if err != nil {
				return desc, err
			}
			l.bases = append(l.bases, slices.DeleteFunc(bases, l.known.isScanner)...)
			if raw, err = sealProvenance(raw, image, l.known, l.dates.files != nil); err != nil {
				return desc, err
			}
			if !keepAll {
				l.gone[statement.Digest] = true
				continue
			}
			if l.known.provenance {
				l.attestations++
			}
		case attestation.SPDX:
			if raw, err = l.sealSBOM(raw, image); err != nil {
				return desc, err
			}
			l.attestations++
		}
		if statement, err = l.replaceBlob(statement, raw); err != nil {
			return desc, err
		}
		layers, diffIDs = append(layers, statement), append(diffIDs, statement.Digest)
	}
	manifest.Layers = layers
	// Where the manifest looks like an image's, its configuration lists the statements once more.
	if manifest.Config.MediaType == ocispec.MediaTypeImageConfig {
		var config ocispec.Image
		if err := l.ReadJSON(manifest.Config.Digest, &config); err != nil {
			return desc, err
		}
		config.RootFS.DiffIDs = diffIDs
		raw, err := json.Marshal(config)
		if err != nil {
			return desc, err
		}
		if manifest.Config, err = l.replaceBlob(manifest.Config, raw); err != nil {
			return desc, err
		}
	}
	raw, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return desc, err
	}
	return l.replaceBlob(desc, raw)
}

// baseImages are the images that a provenance statement says were resolved: for FROM, COPY --from and RUN --mount. Each
// is a reference with tag and digest.
func baseImages(statement []byte) ([]string, error) {
	var s struct {
		Predicate struct {
			BuildDefinition struct {
				ResolvedDependencies []struct {
					URI    string                      `json:"uri"`
					Digest map[digest.Algorithm]string `json:"digest"`
				} `json:"resolvedDependencies"`
			} `json:"buildDefinition"`
		} `json:"predicate"`
	}
	if err := json.Unmarshal(statement, &s); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	var bases []string
	for _, dependency := range s.Predicate.BuildDefinition.ResolvedDependencies {
		if !strings.HasPrefix(dependency.URI, "pkg:docker/") {
			continue // what ADD downloads
		}
		ref, _, err := purl.PURLToRef(dependency.URI)
		if err != nil {
			return nil, fmt.Errorf("provenance: %w", err)
		}
		name, _, _ := strings.Cut(ref, "@")
		image := digest.NewDigestFromEncoded(digest.SHA256, dependency.Digest[digest.SHA256])
		if err := image.Validate(); err != nil {
			return nil, fmt.Errorf("provenance: base image %s: %w", ref, err)
		}
		bases = append(bases, name+"@"+image.String())
	}
	return bases, nil
}

// known is what the step knows of a build, and BuildKit does not.
type known struct {
	provenance bool // whether it is kept
	parameters attestation.Parameters
	source     []attestation.Resource
	image      string // the name of its repository
	scanner    string // the reference of the image that scans, with its digest; empty: there is none
}

// isScanner tells whether what BuildKit has resolved is the scanner, of which nothing is in the image.
func (k known) isScanner(reference string) bool {
	_, digest, _ := strings.Cut(k.scanner, "@")
	return digest != "" && strings.HasSuffix(reference, "@"+digest)
}

// known is what the step knows of this build.
func (b *build) known() known {
	return known{
		provenance: b.in.Provenance != attestation.ProvenanceNone,
		image:      b.in.ImageName,
		scanner:    b.in.SBOMScanner,
		parameters: attestation.Parameters{
			Component:  attestation.ComponentOf(b.in.Owner),
			Repository: attestation.RepositoryOf(b.revision, ""),
			Docker: &attestation.Docker{
				Context: b.in.DockerContext, FilePath: b.in.DockerfilePath, Target: b.in.Target, Platforms: b.asked,
			},
			BuildArgs: attestation.Variables(b.in.BuildArgs, b.in.Provenance),
			BuildEnv:  attestation.Variables(b.in.BuildEnv, b.in.Provenance),
			Labels:    b.in.Labels,
		},
		source: attestation.Source(b.revision),
	}
}

// builderName is the step in provenance.
const builderName = "containerfile-build"

// sealProvenance makes a provenance statement speak of the image, and of where its source is from. To BuildKit the
// source is a folder of this machine: it is told as BuildKit tells a repository that it has cloned itself.
func sealProvenance(statement []byte, image digest.Digest, known known, reproducible bool) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(statement))
	dec.UseNumber()
	var s map[string]any
	if err := dec.Decode(&s); err != nil {
		return nil, fmt.Errorf("provenance: %w", err)
	}
	s["subject"] = attestation.About(v1.Hash{Algorithm: image.Algorithm().String(), Hex: image.Encoded()})
	definition, details := child(s, "predicate", "buildDefinition"), child(s, "predicate", "runDetails")
	asked := child(definition, "externalParameters")
	if asked == nil || details == nil {
		return nil, errors.New("provenance: it does not tell what was asked for")
	}
	definition["buildType"] = attestation.DockerfileBuild
	details["builder"] = attestation.BuilderOf(builderName)
	raw, err := json.Marshal(known.parameters)
	if err == nil {
		err = json.Unmarshal(raw, &asked) // beside what is there
	}
	if err != nil {
		return nil, err
	}
	dependencies := []any{}
	for _, source := range known.source {
		dependencies = append(dependencies, source)
		if config := child(asked, "configSource"); config != nil {
			config["uri"], config["digest"] = source.URI, source.Digest
		}
	}
	used, _ := definition["resolvedDependencies"].([]any)
	definition["resolvedDependencies"] = append(dependencies, used...)
	if reproducible {
		timeless(s)
	}
	return json.Marshal(s)
}

// timeless takes out of a SLSA provenance statement what tells one run of a build from another, all of it optional in
// SLSA: when it ran, the name of the run, the digests of BuildKit's internal steps (they hash a session's random id),
// and those of its cached layers, which are not the image's where its layers were dated.
func timeless(statement map[string]any) {
	metadata := child(statement, "predicate", "runDetails", "metadata")
	for _, name := range []string{"invocationId", "invocationID", "startedOn", "finishedOn"} {
		delete(metadata, name)
	}
	delete(child(metadata, "buildkit_metadata"), "layers")
	delete(child(statement, "predicate", "buildDefinition", "internalParameters", "buildConfig"), "digestMapping")
	infos, _ := child(metadata, "buildkit_metadata", "source")["infos"].([]any)
	for _, info := range infos {
		if info, ok := info.(map[string]any); ok {
			delete(info, "digestMapping")
		}
	}
}

// child is the object at a path of names. Where there is none it is nil, from which everything may be deleted.
func child(object map[string]any, path ...string) map[string]any {
	for _, name := range path {
		object, _ = object[name].(map[string]any)
	}
	return object
}
