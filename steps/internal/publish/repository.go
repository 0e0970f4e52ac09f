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
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
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
	login       *registry.Login
	client      *http.Client
	wants       string        // what it is for, for people
	stall       time.Duration // stallAfter, but for tests
	closed      sync.Map      // other repositories, by their names, that these credentials may not read
}

// newRepository takes a transport without a bound for the time until an answer begins: each request has its own.
func newRepository(
	at name.Repository, credentials *registry.Credentials, insecure bool, t http.RoundTripper,
) *repository {
	r := &repository{name: at, credentials: credentials, stall: stallAfter, wants: "push to"}
	r.login = &registry.Login{
		Gate:   registry.Gate{Host: at.RegistryStr(), Insecure: insecure, Next: t},
		Find:   func(string) (authn.Authenticator, error) { return credentials.Authenticator(at.Name()) },
		Scopes: []string{at.Scope(transport.PushScope)},
	}
	r.client = &http.Client{Transport: r.login}
	return r
}

// connect finds out how the registry wants us to authenticate, and gets a token if it is by token: to push, and to pull
// from the sources if the token server gives that.
func (r *repository) connect(ctx context.Context, sources []string) error {
	r.login.Extra = nil
	for _, from := range sources {
		r.login.Extra = append(r.login.Extra, r.name.Registry.Repo(from).Scope(transport.PullScope))
	}
	ctx, answered := within(ctx, http.MethodGet)
	defer answered()
	if err := r.login.Connect(ctx); err != nil {
		return r.failure(connecting, err)
	}
	return nil
}

// has tells whether a repository holds a blob. When the registry does not want to tell, it does not: an upload will
// show why.
func (r *repository) has(ctx context.Context, repository string, blob v1.Descriptor) (bool, error) {
	if _, closed := r.closed.Load(repository); closed {
		return false, nil
	}
	response, err := r.do(ctx, http.MethodHead, r.url(repository, "blobs", blob.Digest.String()), nil)
	if err == nil {
		response.Body.Close()
		err = transport.CheckError(response, http.StatusOK, http.StatusNotFound)
	}
	if err == nil {
		return response.StatusCode == http.StatusOK, nil
	}
	failure := r.failure("look for "+blob.Digest.String(), err)
	if repository != r.name.RepositoryStr() && outcome.Of(failure).Reason == outcome.PushDenied {
		r.closed.Store(repository, true)
	}
	return false, onlyTransient(failure)
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

// errNoWord is an upload that went whole, and of which the registry did not say whether it has it.
var errNoWord = errors.New("no word of the blob that was sent")

// toCommit is how long a registry may take to store a blob that it got: enough to copy it within its own storage, at
// 5 MB/s.
func toCommit(bytes int64) time.Duration { return 5*time.Minute + time.Duration(bytes/5e6)*time.Second }

// send uploads a blob in one request, and counts its bytes as they go. The error wraps errNoWord where the blob may
// have arrived all the same.
func (r *repository) send(
	ctx context.Context, location *url.URL, open func() (io.ReadCloser, error), blob v1.Descriptor, sent *atomic.Int64,
) error {
	doing := "upload " + blob.Digest.String()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	up := &upload{sent: sent, patience: r.stall, commit: toCommit(blob.Size)}
	up.stall = time.AfterFunc(up.patience, func() {
		host := r.name.RegistryStr()
		if up.whole.Load() {
			cancel(outcome.Errorf(
				outcome.RegistryUnavailable, "%s: %s has all of it, and did not answer for %s: %w", doing, host,
				up.commit, errNoWord,
			))
			return
		}
		cancel(outcome.Errorf(
			outcome.RegistryUnavailable, "%s: %s took no byte for %s", doing, host, up.patience,
		))
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
		up.whole.Store(false)
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
	failure := r.failure(doing, err)
	if fault := registry.FaultOf(r.name.RegistryStr(), err); up.whole.Load() && fault.Kind == registry.Unavailable &&
		(fault.Status == 0 || fault.Status == http.StatusGatewayTimeout) {
		return noWord{failure}
	}
	return failure
}

// noWord is a failure that is also errNoWord.
type noWord struct{ error }

func (n noWord) Unwrap() []error { return []error{n.error, errNoWord} }

// upload is a blob on its way, in as many requests as authentication needs.
type upload struct {
	sent     *atomic.Int64 // by all uploads
	bytes    atomic.Int64  // by this one
	patience time.Duration // with a registry that takes no byte
	commit   time.Duration // patience with one that has all of them
	whole    atomic.Bool   // it has all of them
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
	if err == io.EOF {
		b.whole.Store(true)
		b.stall.Reset(b.commit)
	} else {
		b.stall.Stop()
	}
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

// sight is what a registry shows under a tag or digest.
type sight int

const (
	nothing   sight = iota // there is none
	something              // another manifest
	same                   // the manifest, byte for byte
)

// shows tells what a tag or digest is, seen next to a manifest.
func (r *repository) shows(ctx context.Context, reference string, m imagelayout.Manifest) (sight, error) {
	response, err := r.look(ctx, http.MethodGet, reference, m)
	if err != nil || response == nil {
		return nothing, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, int64(len(m.Raw))+1))
	if err != nil {
		return nothing, r.failure("read "+reference, err)
	}
	if bytes.Equal(raw, m.Raw) {
		return same, nil
	}
	return something, nil
}

// names tells the same by the digest that the registry gives. Registries that count what is read count no HEAD. It
// fails, too, when the registry gives none.
func (r *repository) names(ctx context.Context, reference string, m imagelayout.Manifest) (sight, error) {
	response, err := r.look(ctx, http.MethodHead, reference, m)
	if err != nil || response == nil {
		return nothing, err
	}
	response.Body.Close()
	switch response.Header.Get("Docker-Content-Digest") {
	case m.Digest.String():
		return same, nil
	case "":
		return nothing, outcome.Errorf(
			outcome.Failed, "read %s: %s does not tell its digest", reference, r.name.RegistryStr(),
		)
	}
	return something, nil
}

// look asks for what is under a tag or digest. There is no response when there is nothing.
func (r *repository) look(
	ctx context.Context, method, reference string, m imagelayout.Manifest,
) (*http.Response, error) {
	doing := "read " + reference
	accept := strings.Join(append([]string{string(m.MediaType)}, accepted...), ", ")
	response, err := r.do(
		ctx, method, r.url(r.name.RepositoryStr(), "manifests", reference), nil, "Accept", accept,
	)
	if err != nil {
		return nil, r.failure(doing, err)
	}
	if response.StatusCode == http.StatusNotFound {
		response.Body.Close()
		return nil, nil
	}
	if err := transport.CheckError(response, http.StatusOK); err != nil {
		response.Body.Close()
		return nil, r.failure(doing, err)
	}
	return response, nil
}

func (r *repository) url(repository, kind, reference string) *url.URL {
	return &url.URL{
		Scheme: r.login.Scheme(),
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
	ctx, answered := within(ctx, method)
	request, err := http.NewRequestWithContext(ctx, method, at.String(), reader)
	if err != nil {
		answered()
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := r.client.Do(request)
	answered()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return response, err
}

// within bounds how long a registry may take until its answer begins: longer where it has something to store. The
// function that it returns says that it has begun.
func within(ctx context.Context, method string) (context.Context, func()) {
	bound := time.Minute
	if method != http.MethodGet && method != http.MethodHead {
		bound = toCommit(0)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(bound, func() {
		cancel(outcome.Errorf(outcome.RegistryUnavailable, "the registry did not answer for %s", bound))
	})
	return ctx, func() { timer.Stop() }
}
