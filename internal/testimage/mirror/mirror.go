// Package mirror serves the stand-ins for base images and builders on loopback, as a mirror of the registries that the
// real images are in. A stand-in is made when it is first asked for.
//
// It has nothing else: it refuses every other image, and lists the stand-ins then.
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/stepwright/stepwright/internal/devserver/devregistry"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
	"github.com/stepwright/stepwright/internal/testimage/testbuilders"
)

// Options say where a mirror is and what it keeps. The zero value is at a free port of 127.0.0.1 and keeps all in the
// default folders.
type Options struct {
	Dir    string       // folder of the served images; empty: mirror beside the folder of the stand-ins
	Images string       // folder of the stand-ins as they are made; empty: baseimages.DefaultDir
	Source string       // root of this repository; empty: found upwards from the working directory
	Listen string       // address; empty: 127.0.0.1 and a free port
	Log    *slog.Logger // hears of images that are made, and of refusals; nil: nobody
}

// A Mirror serves until it is closed.
type Mirror struct {
	host     string // host:port to pull from
	inside   string // host:port to push to
	registry *devregistry.Registry
	server   *http.Server
	log      *slog.Logger
	bases    baseimages.Store
	builders testbuilders.Store
	standIns []*standIn

	ctx  context.Context // of the making of images, until Close
	stop context.CancelFunc
}

// A standIn is made and pushed at one go: a base image, or a builder with its run image.
type standIn struct {
	names []string // of the real images: docker.io/library/busybox:1
	push  func(context.Context) error

	mu   sync.Mutex
	done bool
}

// Start serves a mirror that has made nothing yet.
func Start(o Options) (*Mirror, error) {
	if o.Images == "" {
		dir, err := baseimages.DefaultDir()
		if err != nil {
			return nil, err
		}
		o.Images = dir
	}
	if o.Dir == "" {
		o.Dir = filepath.Join(filepath.Dir(o.Images), "mirror")
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	registry, err := devregistry.New(devregistry.Options{Dir: o.Dir})
	if err != nil {
		return nil, err
	}
	m := &Mirror{
		registry: registry, log: o.Log,
		bases:    baseimages.Store{Dir: o.Images, Log: o.Log},
		builders: testbuilders.Store{Dir: o.Images, Source: o.Source, Log: o.Log},
	}
	m.ctx, m.stop = context.WithCancel(context.Background())
	if m.inside, err = registry.Start(""); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	listener, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	for _, ref := range baseimages.Names() {
		m.standIns = append(m.standIns, &standIn{names: []string{ref}, push: func(ctx context.Context) error {
			if err := m.bases.Ensure(ctx, ref); err != nil {
				return err
			}
			return m.bases.Push(ctx, m.inside, ref)
		}})
	}
	for _, family := range testbuilders.Families() {
		names := []string{family.Builder, family.Run}
		m.standIns = append(m.standIns, &standIn{names: names, push: func(ctx context.Context) error {
			if err := m.builders.Ensure(ctx); err != nil {
				return err
			}
			return m.builders.Push(ctx, m.inside, family)
		}})
	}
	m.host = listener.Addr().String()
	m.server = &http.Server{Handler: m, ReadHeaderTimeout: 30 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	go m.server.Serve(listener)
	return m, nil
}

// Close ends the mirror, and the making of images, at once. Finished images stay.
func (m *Mirror) Close() error {
	m.stop()
	var err error
	if m.server != nil {
		err = m.server.Close()
	}
	return errors.Join(err, m.registry.Close())
}

// Address is where the mirror can be reached, over plain HTTP: host:port.
func (m *Mirror) Address() string { return m.host }

// Flags returns the flags of stepwright run for a run that has this mirror.
func (m *Mirror) Flags() []string {
	var flags, hosts []string
	for _, s := range m.standIns {
		for _, ref := range s.names {
			host, _, _ := strings.Cut(ref, "/")
			if !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	for _, host := range hosts {
		flags = append(flags, "--registry-mirror", host+"="+m.host)
	}
	return append(flags, "--insecure-registry", m.host)
}

// MakeBaseImages makes those stand-ins that are base images, before anybody asks.
func (m *Mirror) MakeBaseImages(ctx context.Context) error {
	if err := m.bases.Ensure(ctx); err != nil { // all at once
		return err
	}
	for _, ref := range baseimages.Names() {
		if err := m.find(ref).ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Builders are the names of the builders that have a stand-in.
func Builders() []string {
	var names []string
	for _, family := range testbuilders.Families() {
		names = append(names, family.Name)
	}
	return names
}

// MakeBuilder makes a builder of Builders and its run image, before anybody asks, and returns the flags of stepwright
// run that name them: the digests that templates name belong to the real ones.
func (m *Mirror) MakeBuilder(ctx context.Context, builder string) (flags []string, err error) {
	i := slices.Index(Builders(), builder)
	if i < 0 {
		return nil, fmt.Errorf("no builder %q has a stand-in; there is %s", builder, strings.Join(Builders(), ", "))
	}
	family := testbuilders.Families()[i]
	if err := m.find(family.Builder).ready(ctx); err != nil {
		return nil, err
	}
	for _, image := range []struct{ flag, name string }{
		{"--builder-image", family.Builder}, {"--run-image", family.Run},
	} {
		made, err := m.builders.Image(image.name)
		if err != nil {
			return nil, err
		}
		pinned, err := pin(image.name, made)
		if err != nil {
			return nil, err
		}
		flags = append(flags, image.flag, pinned)
	}
	return flags, nil
}

// pin is an image's name with its digest instead of its tag.
func pin(ref string, image v1.Image) (string, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", err
	}
	digest, err := image.Digest()
	return strings.TrimSuffix(ref, ":"+tag.TagStr()) + "@" + digest.String(), err
}

// find returns the stand-in of a real image, by its name; nil when there is none.
func (m *Mirror) find(ref string) *standIn {
	i := slices.IndexFunc(m.standIns, func(s *standIn) bool { return slices.Contains(s.names, ref) })
	if i < 0 {
		return nil
	}
	return m.standIns[i]
}

// ready makes a stand-in that is not there. Others that want it wait.
func (s *standIn) ready(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done {
		return nil
	}
	err := s.push(ctx)
	s.done = err == nil
	return err
}

// manifest is the path of a request for an image.
var manifest = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)

// ServeHTTP answers one request of the distribution API: it can pull, and nothing else.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "images can only be pulled from here", http.StatusMethodNotAllowed)
		return
	}
	if asked := manifest.FindStringSubmatch(r.URL.Path); asked != nil {
		if err := m.offer(asked[1], asked[2]); err != nil {
			if r.Method == http.MethodGet { // which clients send after a HEAD, too
				m.log.Warn("Refused an image", "why", err)
			}
			refuse(w, err)
			return
		}
	}
	m.registry.ServeHTTP(w, r)
}

// offer makes a repository's tag or digest ready to be pulled.
func (m *Mirror) offer(repository, reference string) error {
	byDigest := strings.Contains(reference, ":")
	separator := ":"
	if byDigest {
		separator = "@"
	}
	asked := repository + separator + reference
	for _, s := range m.standIns {
		for _, ref := range s.names {
			_, path, _ := strings.Cut(ref, "/")
			if path != asked && !(byDigest && strings.HasPrefix(path, repository+":")) {
				continue
			}
			if err := s.ready(m.ctx); err != nil {
				return fmt.Errorf("the stand-in for %s cannot be made: %w", ref, err)
			}
			if !byDigest || m.has(repository, reference) {
				return nil
			}
		}
	}
	var all []string
	for _, s := range m.standIns {
		all = append(all, s.names...)
	}
	own := ""
	if byDigest {
		own = ", with digests of their own"
	}
	return fmt.Errorf(
		"%s has no stand-in, and only stand-ins are served here%s: %s", asked, own, strings.Join(all, ", "),
	)
}

// has tells whether a manifest was pushed.
func (m *Mirror) has(repository, digest string) bool {
	ref, err := name.NewDigest(m.inside+"/"+repository+"@"+digest, name.Insecure)
	if err != nil {
		return false
	}
	_, err = remote.Head(ref, remote.WithContext(m.ctx))
	return err == nil
}

// refuse answers that an image cannot be had, and why. BuildKit shows a registry's message only after a 403: then it
// asks by GET after it has asked by HEAD.
func refuse(w http.ResponseWriter, why error) {
	body, err := json.Marshal(map[string]any{
		"errors": []map[string]string{{"code": "DENIED", "message": why.Error()}},
	})
	if err != nil {
		panic(err) // texts
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusForbidden)
	w.Write(body)
}
