package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
	"github.com/stepwright/stepwright/steps/internal/signature"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// maxStatement is how large a statement is at most that is signed, in bytes: provenance lists each file of a context
// that is not from Git.
const maxStatement = 32 << 20

// signer returns what the parameter signing asks for; nil for none. It is ready to sign.
func (in Parameters) signer(
	ctx context.Context, transport http.RoundTripper, env step.Environment,
) (signature.Signer, error) {
	switch in.Signing {
	case "key":
		return signature.LoadKey(in.SigningKey, in.SigningPassword, env.Secrets)
	case "keyless":
		keyless, err := signature.NewKeyless(signature.Sigstore{
			Fulcio: in.FulcioURL, PlainHTTP: in.InsecureFulcioHTTP, Timestamp: in.TimestampURL, Rekor: in.RekorURL,
			TokenFile: in.SigningIdentityTokenFile, Transport: transport, Secrets: env.Secrets,
		})
		if err != nil {
			return nil, err
		}
		if err := env.Retry.Do(ctx, keyless.Identify); err != nil {
			return nil, fmt.Errorf("sign: %w", err)
		}
		identity, issuer := keyless.Identity()
		env.Log.Info("Got a certificate to sign with", "identity", identity, "issuer", issuer)
		return keyless, nil
	}
	return nil, nil
}

// toSign is a statement about a manifest that the registry has.
type toSign struct {
	subject   imagelayout.Manifest
	predicate string // its type
	statement []byte
}

// signing brings signatures to the image that they are about, as referrers (OCI distribution specification 1.1).
type signing struct {
	*push
	signer signature.Signer
	made   *run // that the image is of; nil where it is not known
}

// run signs the attestations that are in the image's index, what is known of the run, and the image. It returns the
// digest of the manifest that holds the image's signature. An unchanged image that was signed so before is not signed
// again.
func (s *signing) run(ctx context.Context) (string, error) {
	started := time.Now()
	attestations, err := s.attestations()
	if err != nil {
		return "", err
	}
	all, root := slices.Clone(attestations), s.image.Root()
	about := func(predicateType string, predicate any) toSign {
		return toSign{root, predicateType, signature.Statement(root.Digest, predicateType, predicate)}
	}
	if s.made != nil {
		all = append(all, about(signature.RunPredicate, s.made))
	}
	images, err := s.image.Images()
	if err != nil {
		return "", err
	}
	if len(images) > 1 { // who knows one of them by its own digest finds it signed
		for _, image := range images {
			all = append(all, toSign{
				image, signature.SignPredicate, signature.Statement(image.Digest, signature.SignPredicate, nil),
			})
		}
	}
	all = append(all, about(signature.SignPredicate, nil)) // last: an image that is signed has all of them
	var signed string
	added := 0
	for _, one := range all {
		digest, isNew, err := s.sign(ctx, one)
		if err != nil {
			return "", s.failure(err)
		}
		if isNew {
			added++
		}
		signed = digest
	}
	s.env.Log.Info(
		"Signed the image", "signature", signed, "attestations", len(attestations), "new", added,
		"took", time.Since(started),
	)
	return signed, nil
}

// attestations are the statements of the image's index. One that is not about its image is pushed, and not signed.
func (s *signing) attestations() ([]toSign, error) {
	listed, err := s.image.Attestations()
	if err != nil {
		return nil, err
	}
	images, err := s.image.Images()
	if err != nil {
		return nil, err
	}
	var said []toSign
	told := map[string]map[v1.Hash]bool{} // by predicate types: of which images it is said
	for _, a := range listed {
		statement, err := s.image.ReadStatement(a, maxStatement)
		if err != nil {
			return nil, err
		}
		predicate, err := signature.About(statement, a.Subject.Digest)
		if err != nil {
			s.env.Log.Warn("An attestation is not signed", "attestation", a.Statement.Digest, "because", err)
			continue
		}
		said = append(said, toSign{a.Subject, predicate, statement})
		if told[predicate] == nil {
			told[predicate] = map[v1.Hash]bool{}
		}
		told[predicate][a.Subject.Digest] = true
	}
	var all []toSign
	for _, one := range said {
		// What is said of each of its images is said of the index, too: nodes, and policies of a cluster, know the
		// image by the index's digest. Were it said of some only, the others would pass for what they are not.
		whole := s.image.Root().MediaType.IsIndex() && len(told[one.predicate]) == len(images)
		if whole {
			if one.statement, err = signature.AboutToo(one.statement, s.image.Root().Digest); err != nil {
				return nil, err
			}
		}
		all = append(all, one)
		if whole {
			all = append(all, toSign{s.image.Root(), one.predicate, one.statement})
		}
	}
	return all, nil
}

// failure says that it is the signature that failed, and not the image.
func (s *signing) failure(err error) error {
	ours := outcome.Of(err)
	if ours.Reason != outcome.Failed {
		return fmt.Errorf("sign: %w", err)
	}
	return outcome.Errorf(outcome.SigningFailed, "the image is in the registry without its signature: %w", err).
		WithHint("The registry must take OCI manifests with a subject, and, where it does not list them itself, tags " +
			"of the form sha256-<digest>, which change; or set signing=none.")
}

// artifact is a manifest that refers to another one. ggcr's has no type of an artifact.
type artifact struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        v1.Descriptor     `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Subject       *v1.Descriptor    `json:"subject"`
	Annotations   map[string]string `json:"annotations"`
}

// emptyConfig is the content of a configuration that there is none of.
var emptyConfig = []byte("{}")

// describe is the descriptor of some content.
func describe(mediaType types.MediaType, content []byte) v1.Descriptor {
	digest, size, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		panic(err) // memory does not break
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}
}

// predicateAnnotation tells the predicate type of a bundle's statement, in its manifest and in lists of referrers.
const predicateAnnotation = "dev.sigstore.bundle.predicateType"

// holding is the manifest of a bundle. It says no time, so that one bundle has one manifest.
func holding(bundle []byte, of toSign) (imagelayout.Manifest, artifact) {
	subject := describe(of.subject.MediaType, of.subject.Raw)
	doc := artifact{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  signature.BundleMediaType,
		Config:        describe(imagelayout.EmptyType, emptyConfig),
		Layers:        []v1.Descriptor{describe(signature.BundleMediaType, bundle)},
		Subject:       &subject,
		Annotations: map[string]string{
			"dev.sigstore.bundle.content": "dsse-envelope",
			predicateAnnotation:           of.predicate,
		},
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		panic(err) // texts are always encodable
	}
	return imagelayout.Manifest{Digest: describe("", raw).Digest, MediaType: doc.MediaType, Raw: raw}, doc
}

// sign signs one statement, unless it finds that it is signed, and returns the digest of the manifest that holds the
// bundle. A statement of a run is made once; it is empty where the image has enough of them.
func (s *signing) sign(ctx context.Context, one toSign) (digest string, isNew bool, err error) {
	full := false
	err = s.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		if one.predicate == signature.RunPredicate {
			full, err = s.full(ctx, one)
			return err
		}
		digest, err = s.find(ctx, one)
		return err
	})
	if err != nil || digest != "" || full {
		return digest, false, err
	}
	var bundle []byte
	err = s.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
		bundle, err = s.signer.Bundle(ctx, one.statement)
		return err
	})
	if err != nil {
		return "", false, err
	}
	manifest, doc := holding(bundle, one)
	err = s.env.Retry.Do(ctx, func(ctx context.Context) error { return s.attach(ctx, bundle, manifest, doc) })
	return manifest.Digest.String(), true, err
}

// maxReferrers is how many of an image's referrers are looked at.
const maxReferrers = 200

// find looks for a bundle that the signer made of the statement, and returns the digest of its manifest; empty where
// there is none.
func (s *signing) find(ctx context.Context, one toSign) (digest string, err error) {
	list, err := s.referrers(ctx, describe("", one.subject.Raw).Digest)
	if err != nil {
		return "", err
	}
	for _, d := range list.Manifests[:min(len(list.Manifests), maxReferrers)] {
		if told := d.Annotations[predicateAnnotation]; told != "" && told != one.predicate {
			continue
		}
		made, err := s.holds(ctx, d.Digest, one)
		if err := onlyTransient(err); err != nil {
			return "", err
		}
		if made {
			return d.Digest.String(), nil
		}
	}
	return "", nil
}

// holds tells whether a manifest of the registry holds a bundle that the signer made of the statement.
func (s *signing) holds(ctx context.Context, manifest v1.Hash, one toSign) (bool, error) {
	raw, err := s.repository.read(ctx, "manifests", manifest.String(), maxReferrer)
	if err != nil || raw == nil {
		return false, err
	}
	var doc artifact
	if json.Unmarshal(raw, &doc) != nil || doc.ArtifactType != signature.BundleMediaType || len(doc.Layers) != 1 {
		return false, nil
	}
	bundle, err := s.repository.read(ctx, "blobs", doc.Layers[0].Digest.String(), 2*maxStatement)
	if err != nil || bundle == nil || !s.signer.Made(bundle, one.statement) {
		return false, err
	}
	expected, _ := holding(bundle, one)
	return expected.Digest == manifest, nil
}

// attach pushes a bundle and its manifest, and makes sure that the image's referrers list it. It may be done twice.
func (s *signing) attach(ctx context.Context, bundle []byte, manifest imagelayout.Manifest, doc artifact) error {
	if err := s.deliver(ctx, doc.Config, emptyConfig); err != nil {
		return err
	}
	if err := s.deliver(ctx, doc.Layers[0], bundle); err != nil {
		return err
	}
	if err := s.repository.put(ctx, manifest.Digest.String(), manifest); err != nil {
		return err
	}
	return s.list(ctx, doc.Subject.Digest, v1.Descriptor{
		MediaType: manifest.MediaType, Digest: manifest.Digest, Size: int64(len(manifest.Raw)),
		ArtifactType: doc.ArtifactType, Annotations: doc.Annotations,
	})
}

// deliver pushes a blob that is in memory.
func (s *signing) deliver(ctx context.Context, blob v1.Descriptor, content []byte) error {
	there, err := s.repository.has(ctx, s.repository.name.RepositoryStr(), blob)
	if err != nil || there {
		return err
	}
	location, err := s.repository.start(ctx, blob)
	if err != nil {
		return err
	}
	var sent atomic.Int64
	return s.repository.send(ctx, location, func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, blob, &sent)
}

// maxReferrer is the largest manifest in bytes, and the largest list of referrers.
const maxReferrer = 4 << 20

// referrerTag is the tag under which a registry that does not list an image's referrers has their list.
func referrerTag(of v1.Hash) string { return of.Algorithm + "-" + of.Hex }

// referrers lists what refers to an image: by the registry's own list, or the one under a tag.
func (s *signing) referrers(ctx context.Context, of v1.Hash) (list v1.IndexManifest, err error) {
	list, listed, err := s.repository.referrers(ctx, of)
	if err != nil || listed {
		return list, err
	}
	raw, err := s.repository.read(ctx, "manifests", referrerTag(of), maxReferrer)
	if err != nil || raw == nil {
		return v1.IndexManifest{}, err
	}
	if err := json.Unmarshal(raw, &list); err != nil || !list.MediaType.IsIndex() {
		return v1.IndexManifest{}, outcome.Errorf(
			outcome.Failed, "%s:%s is no list of what refers to the image", s.repository.name, referrerTag(of),
		)
	}
	return list, nil
}

// list makes sure that a referrer is listed. Where the registry does not do so by itself, the list is an index under a
// tag, which others may write at the same time: it is read back.
func (s *signing) list(ctx context.Context, of v1.Hash, one v1.Descriptor) error {
	if _, listed, err := s.repository.referrers(ctx, of); err != nil || listed {
		return err
	}
	is := func(d v1.Descriptor) bool { return d.Digest == one.Digest }
	for range 5 {
		list, err := s.referrers(ctx, of)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list.Manifests, is) {
			return nil
		}
		list.SchemaVersion, list.MediaType = 2, types.OCIImageIndex
		list.Manifests = append(list.Manifests, one)
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		index := imagelayout.Manifest{Digest: describe("", raw).Digest, MediaType: list.MediaType, Raw: raw}
		if err := s.repository.put(ctx, referrerTag(of), index); err != nil {
			return err
		}
	}
	return outcome.Errorf(
		outcome.RegistryUnavailable, "%s:%s does not show the signature that it was given", s.repository.name,
		referrerTag(of),
	)
}

// referrers asks for the registry's own list of what refers to a manifest. There is none where the registry does not
// know how to list.
func (r *repository) referrers(ctx context.Context, of v1.Hash) (list v1.IndexManifest, listed bool, err error) {
	at := r.url(r.name.RepositoryStr(), "referrers", of.String())
	for range maxPages {
		doing := "list what refers to " + of.String()
		response, err := r.do(ctx, http.MethodGet, at, nil, "Accept", string(types.OCIImageIndex))
		if err != nil {
			return list, false, r.failure(doing, err)
		}
		page, err := r.page(doing, response)
		if err != nil {
			return list, false, err
		}
		if page == nil {
			return list, false, nil
		}
		list.Manifests = append(list.Manifests, page.Manifests...)
		next := nextPage(response)
		if next == "" {
			return list, true, nil
		}
		further, err := at.Parse(next)
		if err != nil || further.Host != at.Host || further.Scheme != at.Scheme {
			return list, false, outcome.Errorf(outcome.Failed, "%s: its next page is elsewhere", doing)
		}
		at = further
	}
	return list, true, nil
}

// maxPages is how many pages of a list are read.
const maxPages = 20

// page reads a page of a registry's list; nil where the registry knows of no lists.
func (r *repository) page(doing string, response *http.Response) (*v1.IndexManifest, error) {
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable,
		http.StatusNotImplemented:
		return nil, nil
	default:
		return nil, r.failure(doing, transport.CheckError(response, http.StatusOK))
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxReferrer))
	if err != nil {
		return nil, r.failure(doing, err)
	}
	var list v1.IndexManifest
	if json.Unmarshal(raw, &list) != nil || !list.MediaType.IsIndex() {
		return nil, nil // a proxy's page
	}
	return &list, nil
}

// nextPage is where a list goes on (RFC 5988); empty where it does not.
func nextPage(response *http.Response) string {
	for _, link := range response.Header.Values("Link") {
		at, about, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if ok && strings.Contains(about, `rel="next"`) {
			return at
		}
	}
	return ""
}

// read reads a manifest or blob of the repository whole; nil where there is none.
func (r *repository) read(ctx context.Context, kind, reference string, limit int64) ([]byte, error) {
	doing := "read " + reference
	at := r.url(r.name.RepositoryStr(), kind, reference)
	response, err := r.do(ctx, http.MethodGet, at, nil, "Accept", strings.Join(accepted, ", "))
	if err != nil {
		return nil, r.failure(doing, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		return nil, r.failure(doing, err)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, r.failure(doing, err)
	}
	if int64(len(raw)) > limit {
		return nil, r.failure(doing, fmt.Errorf("it has more than %d bytes", limit))
	}
	return raw, nil
}
