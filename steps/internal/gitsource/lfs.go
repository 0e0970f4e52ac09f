package gitsource

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing/format/config"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
)

// Git LFS keeps the contents of some files on a server of its own, and in the repository a pointer to each. This is its
// client's half for downloads: the batch API over HTTP, which every server has, with git-lfs-authenticate where the
// repository is reached by SSH. Only the contents of the files that are checked out are fetched.

// pointer is what the repository has instead of a content.
type pointer struct {
	oid   string // SHA-256 in hexadecimal
	size  int64  // bytes
	raw   []byte
	files []*file // that have it
}

const (
	largestPointer = 1024 // bytes
	batchSize      = 100  // objects that are asked for at once
	lfsDownloads   = 4    // at once
	lfsType        = "application/vnd.git-lfs+json"
	largestAnswer  = 4 << 20  // bytes; an answer for 100 objects has a tenth of that
	mostPointers   = 64 << 20 // bytes of all pointers of a repository
)

// parsePointer reads a pointer. Anything else that has the filter is a file whose content was committed as it is.
func parsePointer(raw []byte) (pointer, bool) {
	p := pointer{raw: raw, size: -1}
	version := false
	for line := range strings.Lines(string(raw)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if !ok {
			return p, false
		}
		switch key {
		case "version":
			version = strings.HasPrefix(value, "https://git-lfs.github.com/spec/") ||
				strings.HasPrefix(value, "https://hawser.github.com/spec/") ||
				strings.HasPrefix(value, "http://git-media.io/v/")
		case "oid":
			p.oid = strings.TrimPrefix(value, "sha256:")
		case "size":
			size, err := strconv.ParseInt(value, 10, 62)
			if err != nil {
				return p, false
			}
			p.size = size
		}
	}
	sum, err := hex.DecodeString(p.oid)
	return p, version && err == nil && len(sum) == sha256.Size && p.size >= 0
}

// pointers returns the pointers of the files with the filter, one for each content.
func (t *tree) pointers(inLFS []*file) ([]*pointer, error) {
	exclusion, err := readLFSConfig(t.root)
	if err != nil {
		return nil, err
	}
	var all []*pointer
	total := 0
	byOID := map[string]*pointer{}
	for _, f := range inLFS {
		if f.size == 0 || f.size > largestPointer || !exclusion.wants(f.path) {
			continue
		}
		raw, err := t.root.ReadFile(f.path)
		if err != nil {
			return nil, err
		}
		p, ok := parsePointer(raw)
		if !ok {
			continue
		}
		if byOID[p.oid] == nil {
			if total += len(p.raw) + 200; total > mostPointers {
				return nil, outcome.Errorf(
					outcome.RepositoryInvalid, "its pointers to Git LFS have more than %d bytes", mostPointers,
				)
			}
			byOID[p.oid] = &p
			all = append(all, &p)
		}
		byOID[p.oid].files = append(byOID[p.oid].files, f)
	}
	return all, nil
}

// lfsConfig is what .lfsconfig says.
type lfsConfig struct {
	url              string // of the server; empty: it follows from the repository's
	include, exclude []string
}

func readLFSConfig(root *os.Root) (lfsConfig, error) {
	var c lfsConfig
	f, err := root.Open(".lfsconfig")
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	defer f.Close()
	parsed := config.New()
	raw, err := readSettings(f)
	if err == nil {
		err = config.NewDecoder(bytes.NewReader(raw)).Decode(parsed)
	}
	if err != nil {
		return c, outcome.Errorf(outcome.RepositoryInvalid, ".lfsconfig: %w", err)
	}
	list := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	s := parsed.Section("lfs")
	c = lfsConfig{
		url: s.Option("url"), include: list(s.Option("fetchinclude")), exclude: list(s.Option("fetchexclude")),
	}
	if c.url == "" {
		c.url = parsed.Section("remote").Subsection("origin").Option("lfsurl")
	}
	return c, nil
}

// wants tells whether a file's content is to be fetched.
func (c lfsConfig) wants(file string) bool {
	matches := func(patterns []string) bool {
		for _, p := range patterns {
			p = strings.Trim(p, "/")
			for at := file; at != "."; at = path.Dir(at) { // a directory's pattern is for all below it
				if wildmatch(p, at, true) || !strings.Contains(p, "/") && wildmatch(p, path.Base(at), false) {
					return true
				}
			}
		}
		return false
	}
	return (len(c.include) == 0 || matches(c.include)) && !matches(c.exclude)
}

// lfs writes the contents of the files that are pointers.
func (j *job) lfs(ctx context.Context, t *tree, remote Remote, inLFS []*file, log *slog.Logger) error {
	if len(inLFS) == 0 {
		return nil
	}
	all, err := t.pointers(inLFS)
	if err != nil {
		return err
	}
	var count, total int64
	for _, p := range all {
		count += int64(len(p.files))
		total += p.size * int64(len(p.files))
	}
	if count == 0 {
		return nil
	}
	if j.lfsWanted == no {
		log.Warn("Files are in Git LFS, which is switched off: they stay pointers", "files", count, "bytes", total)
		return nil
	}
	started := time.Now()
	var written atomic.Int64
	err = j.room(t, total)
	if err == nil {
		err = j.download(ctx, t, remote, all, &written)
	}
	if err != nil {
		failure := outcome.Of(err)
		if j.lfsWanted != try || !dispensable(ctx, err) && failure.Reason != outcome.OutOfSpace {
			return wrap(err, "Git LFS")
		}
		log.Warn(
			"Files in Git LFS cannot be had: they stay pointers", "files", count-written.Load(), "reason",
			failure.Reason, "because", failure.Message,
		)
		return nil
	}
	log.Info("Fetched files from Git LFS", "files", count, "bytes", total, "took", time.Since(started))
	return nil
}

// room tells whether the disk has that many bytes left.
func (j *job) room(t *tree, total int64) error {
	dir, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &disk); err != nil {
		return err
	}
	if free := int64(disk.Bavail) * disk.Bsize; total > free {
		return outcome.Errorf(
			outcome.OutOfSpace, "the repository's files in Git LFS have %d bytes, and the workspace's disk has %d left",
			total, free,
		)
	}
	return nil
}

// lfsServer is where contents are asked for.
type lfsServer struct {
	*client
	*httpConnection
	endpoint string
	header   map[string]string // to be sent with each question
}

// download fetches all contents and writes their files.
func (j *job) download(
	ctx context.Context, t *tree, remote Remote, all []*pointer, written *atomic.Int64,
) error {
	settings, err := readLFSConfig(t.root)
	if err != nil {
		return err
	}
	ways, err := j.client.lfsWays(remote, settings.url)
	if err != nil {
		return err
	}
	for i, w := range ways {
		var s *lfsServer
		err = j.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
			s, err = j.client.lfsServer(ctx, w, settings.url != "")
			return err
		})
		if err == nil {
			for _, value := range s.header {
				j.env.Secrets.Add(value)
			}
			err = j.downloadFrom(ctx, s, t, all, written)
		}
		if err == nil || outcome.Of(err).Reason != outcome.AuthenticationFailed || i == len(ways)-1 {
			break
		}
	}
	return err
}

// lfsWays are how the LFS server of a repository can be reached: as the repository itself, or where .lfsconfig says, to
// which the credentials go only if it is their server.
func (c *client) lfsWays(remote Remote, configured string) ([]way, error) {
	if configured == "" {
		return c.ways(remote)
	}
	to, err := ParseRemote(configured)
	if err != nil {
		return nil, outcome.Errorf(outcome.RepositoryInvalid, "the LFS server's URL in .lfsconfig %w", err)
	}
	if to.Scheme == "ssh" {
		return c.ways(to)
	}
	if c.password != "" && to.sameServer(c.owner) {
		return []way{{to, c.basic(to)}}, nil
	}
	return []way{{Remote: to}}, nil
}

// lfsServer finds the server: by the repository's URL, or by asking the SSH server for it.
func (c *client) lfsServer(ctx context.Context, w way, configured bool) (*lfsServer, error) {
	s := &lfsServer{client: c}
	switch {
	case w.Scheme == "ssh":
		var answer struct {
			Href   string            `json:"href"`
			Header map[string]string `json:"header"`
		}
		raw, err := c.ask(ctx, w, "git-lfs-authenticate "+quote(w.Path)+" download")
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return nil, outcome.Errorf(
				outcome.RepositoryNotFound, "%s does not say where its LFS server is: %q", w.address(), clean(raw),
			)
		}
		s.endpoint, s.header = answer.Href, answer.Header
		to, err := ParseRemote(answer.Href)
		if err != nil || to.Scheme == "ssh" {
			return nil, outcome.Errorf(outcome.RepositoryNotFound, "%s names no valid LFS server", w.address())
		}
		if to.Scheme == "http" && len(s.header) > 0 && !c.insecure && !to.loopback() {
			return nil, outcome.Errorf(
				outcome.AuthenticationFailed, "%s names an LFS server on plain HTTP, %s, where everybody on the way "+
					"can read its token", w.address(), to.server(),
			).
				WithHint("Let it name an https URL. The parameter insecure-git-http sends the token all the same.")
		}
		w = way{Remote: to}
	case configured:
		s.endpoint = w.String()
	default:
		w.Path = strings.TrimSuffix(w.Path, ".git") + ".git/info/lfs"
		s.endpoint = w.String()
	}
	s.httpConnection = c.newHTTPConnection(w)
	return s, nil
}

// lfsObject is an object in questions and answers of the batch API.
type lfsObject struct {
	OID     string `json:"oid"`
	Size    int64  `json:"size"`
	Actions *struct {
		Download *struct {
			Href   string            `json:"href"`
			Header map[string]string `json:"header"`
		} `json:"download"`
	} `json:"actions,omitempty"`
	Error *struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

func (j *job) downloadFrom(
	ctx context.Context, s *lfsServer, t *tree, all []*pointer, written *atomic.Int64,
) error {
	byOID := map[string]*pointer{}
	for _, p := range all {
		byOID[p.oid] = p
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lfsDownloads)
	for len(all) > 0 && ctx.Err() == nil {
		part := all[:min(len(all), batchSize)]
		all = all[len(part):]
		var objects []lfsObject
		err := j.env.Retry.Do(ctx, func(ctx context.Context) (err error) {
			objects, err = s.batch(ctx, part)
			return err
		})
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		for _, o := range objects {
			p := byOID[o.OID]
			if p == nil {
				continue
			}
			delete(byOID, o.OID)
			group.Go(func() error {
				name := t.dir + p.files[0].path
				if err := o.problem(); err != nil {
					return wrap(err, "%s", name)
				}
				if err := j.fetchObject(ctx, s, t, p, o); err != nil {
					return wrap(err, "%s", name)
				}
				written.Add(int64(len(p.files)))
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range byOID {
		return outcome.Errorf(
			outcome.RepositoryInvalid, "the LFS server does not answer for %s", t.dir+p.files[0].path,
		)
	}
	return nil
}

// problem is why an object cannot be downloaded.
func (o lfsObject) problem() error {
	switch {
	case o.Error != nil && o.Error.Code == http.StatusNotFound || o.Error != nil && o.Error.Code == http.StatusGone:
		return outcome.Errorf(
			outcome.RevisionNotFound, "the LFS server does not have its content (%d: %s)", o.Error.Code,
			clean([]byte(o.Error.Message)),
		).
			WithHint("It was committed, but never pushed to the LFS server: git lfs push --all does that.")
	case o.Error != nil:
		return outcome.Errorf(
			outcome.RepositoryInvalid, "the LFS server refuses its content (%d: %s)", o.Error.Code,
			clean([]byte(o.Error.Message)),
		)
	case o.Actions == nil || o.Actions.Download == nil:
		return outcome.Errorf(outcome.RepositoryInvalid, "the LFS server does not say where its content is")
	}
	return nil
}

// batch asks where contents are.
func (s *lfsServer) batch(ctx context.Context, part []*pointer) ([]lfsObject, error) {
	question := struct {
		Operation string      `json:"operation"`
		Transfers []string    `json:"transfers"`
		Objects   []lfsObject `json:"objects"`
		HashAlgo  string      `json:"hash_algo"`
	}{Operation: "download", Transfers: []string{"basic"}, HashAlgo: "sha256"}
	for _, p := range part {
		question.Objects = append(question.Objects, lfsObject{OID: p.oid, Size: p.size})
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Transfer string      `json:"transfer"`
		Objects  []lfsObject `json:"objects"`
	}
	err = s.request(ctx, http.MethodPost, s.endpoint+"/objects/batch", body, s.header, func(
		_ *http.Response, r io.Reader,
	) error {
		raw, err := io.ReadAll(io.LimitReader(r, largestAnswer))
		if err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &answer); err != nil {
			return outcome.Errorf(outcome.RepositoryNotFound, "%s is no LFS server: %w", s.remote, err)
		}
		return nil
	})
	if err == nil && answer.Transfer != "" && answer.Transfer != "basic" {
		err = outcome.Errorf(
			outcome.RepositoryInvalid, "the LFS server %s wants the transfer %q; only basic is supported", s.remote,
			clean([]byte(answer.Transfer)),
		)
	}
	return answer.Objects, err
}

// request sends one request and lets read read the answer, with the client's patience.
func (s *lfsServer) request(
	ctx context.Context, method, to string, body []byte, header map[string]string,
	read func(*http.Response, io.Reader) error,
) error {
	at, err := url.Parse(to)
	if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" {
		return outcome.Errorf(outcome.RepositoryInvalid, "the LFS server %s names no valid URL", s.remote)
	}
	if s.remote.Scheme == "https" && at.Scheme != "https" {
		return outcome.Errorf(
			outcome.RepositoryInvalid, "the LFS server %s names a URL at %s that is not encrypted", s.remote, at.Host,
		)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(s.patience, func() { cancel(s.silent(s.remote)) })
	defer watchdog.Stop()
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", lfsType)
		r.Header.Set("Accept", lfsType)
	}
	r.Header.Set("Accept-Encoding", "identity")
	for name, value := range header {
		r.Header.Set(name, value)
	}
	resp, err := s.roundTrip(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(resp, &attentive{ctx, resp.Body, s.remote, watchdog, s.patience})
}

// fetchObject downloads one content into the first of its files, from where an earlier try ended, and copies it into
// the others. If that fails, the pointer stays.
func (j *job) fetchObject(ctx context.Context, s *lfsServer, t *tree, p *pointer, o lfsObject) (err error) {
	first := p.files[0]
	to, err := t.root.OpenFile(first.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, restart(to))
			_, werr := to.Write(p.raw)
			err = errors.Join(err, werr)
		}
		err = errors.Join(err, first.settle(t.root, to))
	}()
	sum := sha256.New()
	var have int64
	err = j.env.Retry.Do(ctx, func(ctx context.Context) error {
		header := map[string]string{}
		for name, value := range o.Actions.Download.Header {
			header[name] = value
		}
		if have > 0 {
			header["Range"] = fmt.Sprintf("bytes=%d-", have)
		}
		return s.request(ctx, http.MethodGet, o.Actions.Download.Href, nil, header, func(
			resp *http.Response, r io.Reader,
		) error {
			goesOn := resp.StatusCode == http.StatusPartialContent &&
				strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", have))
			if have > 0 && !goesOn {
				if resp.StatusCode == http.StatusPartialContent {
					return unavailable(s.remote, errors.New("it sends another part than it was asked for"))
				}
				have = 0
				sum.Reset()
				if err := restart(to); err != nil {
					return err
				}
			}
			n, err := io.Copy(io.MultiWriter(to, sum), io.LimitReader(r, p.size-have+1))
			have += n
			switch {
			case err != nil:
				return err
			case have > p.size:
				return outcome.Errorf(outcome.RepositoryInvalid, "the LFS server sends more than %d bytes", p.size)
			case have < p.size:
				return unavailable(s.remote, io.ErrUnexpectedEOF)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != strings.ToLower(p.oid) {
		return outcome.Errorf(outcome.RepositoryInvalid, "the LFS server sends another content, %s", got)
	}
	for _, f := range p.files[1:] {
		if err := t.copyFile(first, f); err != nil {
			return err
		}
	}
	return nil
}

func restart(to *os.File) error {
	_, err := to.Seek(0, io.SeekStart)
	return errors.Join(err, to.Truncate(0))
}

// copyFile gives a file another's content.
func (t *tree) copyFile(from, f *file) error {
	in, err := t.root.Open(from.path)
	if err != nil {
		return err
	}
	defer in.Close()
	to, err := t.root.OpenFile(f.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, in)
	return errors.Join(err, f.settle(t.root, to))
}

// settle closes a file and gives it a time before the index's: git, without the filter, must not look into it, where it
// would find no pointer.
func (f *file) settle(root *os.Root, to *os.File) error {
	past := time.Now().Add(-2 * time.Second).Truncate(time.Second)
	return errors.Join(to.Close(), root.Chtimes(f.path, past, past), f.changed(root.Stat(f.path)))
}
