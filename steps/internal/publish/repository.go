package publish

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/steps/internal/imagelayout"
)

// stallAfter is how long the registry may take no byte of an upload.
const stallAfter = time.Minute

// repository speaks the OCI distribution protocol with one repository. It is ggcr's authentication under a protocol of
// its own: ggcr's push has its own idea of what to retry, forgets Retry-After, and takes for an image only what it
// knows.
//
// Each method is one thing to retry: it leaves nothing behind when it fails. Failures are an outcome.Error.
type repository struct {
	name        name.Repository
	credentials *registry.Credentials
	gate        *registry.Gate
	client      *http.Client
	stall       time.Duration // stallAfter, but for tests
}

func newRepository(
	at name.Repository, credentials *registry.Credentials, insecure bool, t http.RoundTripper,
) *repository {
	gate := &registry.Gate{Host: at.RegistryStr(), Insecure: insecure, Next: t}
	return &repository{name: at, credentials: credentials, gate: gate, stall: stallAfter}
}

// connect finds out how the registry wants us to authenticate, and gets a token if it is by token: to push, and to pull
// from the sources.
func (r *repository) connect(ctx context.Context, sources []string) error {
	scopes := []string{r.name.Scope(transport.PushScope)}
	for _, from := range sources {
		scopes = append(scopes, r.name.Registry.Repo(from).Scope(transport.PullScope))
	}
	auth, err := r.credentials.Authenticator(r.name.Name())
	if err != nil {
		return err
	}
	authenticated, err := transport.NewWithContext(ctx, r.name.Registry, auth, r.gate, scopes)
	if err != nil {
		return r.failure(connecting, err)
	}
	r.client = &http.Client{Transport: authenticated}
	return nil
}

// has tells whether a repository holds a blob. When the registry does not want to tell, it does not: an upload will
// show why.
func (r *repository) has(ctx context.Context, repository string, blob v1.Descriptor) (bool, error) {
	response, err := r.do(ctx, http.MethodHead, r.url(repository, "blobs", blob.Digest.String()), nil)
	if err != nil {
		return false, onlyTransient(r.failure("look for "+blob.Digest.String(), err))
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK, nil
}

// mount makes a blob of another repository one of ours, if the registry wants to.
func (r *repository) mount(ctx context.Context, blob v1.Descriptor, source string) (mounted bool, err error) {
	response, err := r.do(ctx, http.MethodPost, r.uploads(url.Values{
		"mount": {blob.Digest.String()},
		"from":  {source},
	}), nil)
	if err != nil {
		return false, onlyTransient(r.failure("mount "+blob.Digest.String(), err))
	}
	response.Body.Close()
	return response.StatusCode == http.StatusCreated, nil
}

// start begins an upload and returns where to send the blob.
func (r *repository) start(ctx context.Context, blob v1.Descriptor) (*url.URL, error) {
	doing := "begin to upload " + blob.Digest.String()
	response, err := r.do(ctx, http.MethodPost, r.uploads(nil), nil)
	if err != nil {
		return nil, r.failure(doing, err)
	}
	defer response.Body.Close()
	if err := transport.CheckError(response, http.StatusAccepted); err != nil {
		return nil, r.failure(doing, err)
	}
	location, err := response.Location()
	if err != nil {
		return nil, r.failure(doing, err)
	}
	return location, nil
}

// send uploads a blob in one request, and counts its bytes as they go.
func (r *repository) send(
	ctx context.Context, location *url.URL, open func() (io.ReadCloser, error), blob v1.Descriptor, sent *atomic.Int64,
) error {
	doing := "upload " + blob.Digest.String()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	up := &upload{sent: sent, patience: r.stall}
	up.stall = time.AfterFunc(up.patience, func() {
		cancel(
			outcome.Errorf(
				outcome.RegistryUnavailable, "%s: %s took no byte for %s", doing, r.name.RegistryStr(), up.patience,
			),
		)
	})
	defer up.stall.Stop()

	query := location.Query()
	query.Set("digest", blob.Digest.String())
	at := *location
	at.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, at.String(), nil)
	if err != nil {
		return r.failure(doing, err)
	}
	request.Header.Set("Content-Type", "application/octet-stream")
	request.ContentLength = blob.Size
	request.Body = unread{}
	request.GetBody = func() (io.ReadCloser, error) {
		content, err := open()
		if err != nil {
			return nil, err
		}
		return &body{content, up}, nil
	}
	response, err := r.client.Do(request)
	if err == nil {
		defer response.Body.Close()
		if err = transport.CheckError(response, http.StatusCreated, http.StatusNoContent); err == nil {
			return nil
		}
	}
	sent.Add(-up.bytes.Load())
	if damage := up.damage.Load(); damage != nil {
		return *damage
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return r.failure(doing, err)
}

// upload is a blob on its way, in as many requests as authentication needs.
type upload struct {
	sent     *atomic.Int64 // by all uploads
	bytes    atomic.Int64  // by this one
	patience time.Duration // with a registry that takes no byte
	stall    *time.Timer
	damage   atomic.Pointer[error] // why the blob cannot be read
}

// body is the content of one request of an upload.
type body struct {
	io.ReadCloser
	*upload
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.sent.Add(int64(n))
	b.bytes.Add(int64(n))
	if err == nil {
		b.stall.Reset(b.patience)
		return n, nil
	}
	// from here on the transport waits for the answer, and has its own measure for that
	b.stall.Stop()
	// the transport closes it while it reads when the connection breaks
	if err != io.EOF && !errors.Is(err, os.ErrClosed) {
		b.damage.Store(&err)
	}
	return n, err
}

// unread is the body of a request of which only GetBody is used.
type unread struct{}

func (unread) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
func (unread) Close() error             { return nil }

// put stores a manifest under a tag or its digest.
func (r *repository) put(ctx context.Context, reference string, m imagelayout.Manifest) error {
	doing := "store manifest " + m.Digest.String()
	response, err := r.do(
		ctx, http.MethodPut, r.url(r.name.RepositoryStr(), "manifests", reference), m.Raw, "Content-Type",
		string(m.MediaType),
	)
	if err != nil {
		return r.failure(doing, err)
	}
	defer response.Body.Close()
	if err := transport.CheckError(
		response, http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent,
	); err != nil {
		return r.failure(doing, err)
	}
	return nil
}

// accepted are the manifests a registry may answer with. It would make of an index an image for one who does not know
// indexes.
var accepted = []string{
	string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestSchema2),
	string(types.DockerManifestList),
}

// shows tells whether a tag or digest is this manifest, byte for byte.
func (r *repository) shows(ctx context.Context, reference string, m imagelayout.Manifest) (bool, error) {
	doing := "read " + reference
	accept := strings.Join(append([]string{string(m.MediaType)}, accepted...), ", ")
	response, err := r.do(
		ctx, http.MethodGet, r.url(r.name.RepositoryStr(), "manifests", reference), nil, "Accept", accept,
	)
	if err != nil {
		return false, r.failure(doing, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusNotFound {
		return false, nil
	}
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		return false, r.failure(doing, err)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, int64(len(m.Raw))+1))
	if err != nil {
		return false, r.failure(doing, err)
	}
	return bytes.Equal(raw, m.Raw), nil
}

func (r *repository) url(repository, kind, reference string) *url.URL {
	return &url.URL{
		Scheme: r.gate.Scheme(),
		Host:   r.name.RegistryStr(),
		Path:   "/v2/" + repository + "/" + kind + "/" + reference,
	}
}

func (r *repository) uploads(query url.Values) *url.URL {
	at := r.url(r.name.RepositoryStr(), "blobs", "uploads/")
	at.RawQuery = query.Encode()
	return at
}

// do sends a request with headers given as name, value, …
func (r *repository) do(
	ctx context.Context, method string, at *url.URL, content []byte, headers ...string,
) (*http.Response, error) {
	var reader io.Reader
	if content != nil {
		reader = bytes.NewReader(content)
	}
	request, err := http.NewRequestWithContext(ctx, method, at.String(), reader)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	return r.client.Do(request)
}
