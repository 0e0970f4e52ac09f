// Package gitsource is the step checkout-source: it puts one revision of a Git repository into the workspace.
//
// It speaks the pack protocol itself (protocol.go, over http.go and ssh.go), reads the pack as it arrives (pack.go),
// and writes the files straight from it (checkout.go, folders.go): one fetch at depth 1, every content unpacked where
// it belongs, nothing written outside. The format of configuration is go-git's.
package gitsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sys/unix"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// GarbagePercent is how much garbage the step's process may hold, in percent of what it uses. The heap of a checkout
// has few pointers, so a small share costs little time.
const GarbagePercent = 20

// Parameters are the parameters in schemas/checkout-source.schema.json.
type Parameters struct {
	step.Common
	GitRepo           string `json:"git-repo"`
	Branch            string `json:"branch"`
	Commit            string `json:"commit"`
	GitSecretDir      string `json:"git-secret-dir"`
	GitSecretRequired bool   `json:"git-secret-required"`
	GitSecretTimeout  int    `json:"git-secret-timeout"` // seconds
	GitSecretHosts    string `json:"git-secret-hosts"`   // as parseHosts reads them
	InsecureGitHTTP   bool   `json:"insecure-git-http"`
	Submodules        string `json:"submodules"`  // true, false or try
	LFS               string `json:"lfs"`         // true, false or try
	GitTimeout        int    `json:"git-timeout"` // seconds

	// What the developer wants of both, which wins; empty: nothing else.
	RepositorySubmodules string `json:"repository-submodules"`
	RepositoryLFS        string `json:"repository-lfs"`
}

// Run checks out the revision into the workspace's source folder, which holds either all of it or nothing. Its results
// are git-revision (the first 8 characters of the commit), git-commit, git-commit-time (the committer's, Unix seconds),
// git-author (Name <email>), and what later steps know the source by: source-digest (workspace.WriteTree) and revision
// (workspace.Revision, encoded).
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	remote, err := ParseRemote(in.GitRepo)
	if err != nil {
		return nil, outcome.Invalid(fmt.Sprintf("git-repo: the repository's URL %v", err))
	}
	rev := revision{branch: in.Branch, commit: strings.ToLower(in.Commit)}
	if rev == (revision{}) {
		return nil, outcome.Invalid("branch, commit: both are empty; one is needed")
	}
	if rev.commit != "" {
		rev.branch = ""
	}
	j := &job{
		env: env, submodulesWanted: cmp.Or(in.RepositorySubmodules, in.Submodules),
		lfsWanted: cmp.Or(in.RepositoryLFS, in.LFS),
	}
	j.log.Store(env.Log)
	if j.client, err = newClient(ctx, in, env, remote); err != nil {
		return nil, err
	}
	j.client.say = func(line string) { env.Log.Info("The server says", "remote", line) }
	if j.client.password != "" && remote.Scheme == "http" && in.InsecureGitHTTP && !remote.loopback() {
		env.Log.Warn("The password may go over the network unencrypted; use https", "repository", remote)
	}

	staging, err := emptied(in.Workspace)
	if err != nil {
		return nil, fmt.Errorf("preparing the workspace: %w", err)
	}
	defer os.RemoveAll(staging)
	at, err := j.checkout(ctx, filepath.Join(staging, "source"), remote, rev)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(filepath.Join(staging, "source"), in.Workspace.Source()); err != nil {
		return nil, err
	}
	facts := workspace.Revision{
		URL: remote.String(), Branch: rev.branch, Commit: at.hash.String(), AuthorName: at.authorName,
		AuthorEmail: at.authorEmail, Time: at.time,
	}
	if err := in.Workspace.WriteRevision(facts); err != nil {
		return nil, err
	}
	encoded, err := facts.Encode()
	if err != nil {
		return nil, err
	}
	started := time.Now()
	if err := in.Workspace.MakeFolders(); err != nil {
		return nil, err
	}
	digest, err := in.Workspace.WriteList(ctx, j.listed)
	if err != nil {
		return nil, err
	}
	env.Log.Info("Listed the source for the next steps", "digest", digest, "took", time.Since(started))
	return step.Results{
		"git-revision":    at.hash.String()[:8],
		"git-commit":      at.hash.String(),
		"git-commit-time": strconv.FormatInt(at.time.Unix(), 10),
		"git-author":      fmt.Sprintf("%s <%s>", at.authorName, at.authorEmail),
		"source-digest":   digest,
		"revision":        encoded,
	}, nil
}

func newClient(ctx context.Context, in Parameters, env step.Environment, owner Remote) (*client, error) {
	hosts, err := parseHosts(in.GitSecretHosts)
	if err != nil {
		return nil, outcome.Invalid("git-secret-hosts: " + err.Error())
	}
	creds, err := waitForCredentials(ctx, in, env)
	if err != nil {
		return nil, err
	}
	c := &client{
		owner: owner, credentials: creds, patience: time.Duration(in.GitTimeout) * time.Second,
		hostsOfSecret: creds.hosts != nil, insecure: in.InsecureGitHTTP,
	}
	if !c.hostsOfSecret {
		c.hosts = hosts
	}
	if creds.password != "" {
		env.Secrets.Add(c.basic(owner).username + ":" + creds.password) // its base64 is the header
	}
	if c.http, err = trust.Transport(in.CABundle); err != nil {
		return nil, err
	}
	c.http.OnProxyConnectResponse = checkProxy
	c.http.MaxResponseHeaderBytes = largestHeader
	c.http.ResponseHeaderTimeout = 0 // a server may take its time: fetch has the patience, and dialer finds the dead
	c.http.DialContext = dialer.DialContext
	c.http.HTTP2 = &http.HTTP2Config{SendPingTimeout: keepAlive, PingTimeout: 3 * keepAlive}
	c.keys = newHostKeys(creds.knownHosts)
	if lines := c.keys.own.unreadable; len(lines) > 0 {
		env.Log.Warn("known_hosts in the Git secret has lines that cannot be read; they do not count", "lines", lines)
	}
	return c, nil
}

// emptied removes what an earlier attempt left, also one that was killed, and returns a new directory beside it to work
// in. A symbolic link is removed itself; its target is not touched.
func emptied(w workspace.Workspace) (string, error) {
	if err := os.MkdirAll(string(w), 0o755); err != nil {
		return "", err
	}
	left, err := filepath.Glob(filepath.Join(string(w), stagingPattern))
	if err != nil {
		return "", err
	}
	for _, path := range append(left, w.Source(), w.TreeFolder(), filepath.Join(string(w), "revision.json")) {
		if err := os.RemoveAll(path); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(string(w), stagingPattern)
}

const stagingPattern = ".checkout-*"

// How much something is wanted: yes fails without it, try warns.
const (
	yes = "true"
	no  = "false"
	try = "try"
)

// job is one checkout, with all submodules.
type job struct {
	env    step.Environment
	client *client

	submodulesWanted, lfsWanted string // yes, no or try

	meter meter                       // of the repository or submodule that is checked out now
	log   atomic.Pointer[slog.Logger] // its log

	modules  int
	listed   []workspace.Entry // of the source, submodules included
	links    []link
	linkText int // bytes of links
}

// mostLinkText is how many bytes of links of all submodules are held, to warn of those that lead out.
const mostLinkText = 64 << 20

func (j *job) checkout(ctx context.Context, dir string, remote Remote, rev revision) (commit, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return commit{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return commit{}, err
	}
	defer root.Close()
	repo, err := newRepository(root, nil, "", "")
	if err != nil {
		return commit{}, err
	}
	reporting, stop := context.WithCancel(ctx)
	reported := j.meter.report(reporting, j.log.Load)
	at, err := j.clone(ctx, root, repo, remote, rev, 0)
	stop()
	<-reported
	if err := errors.Join(err, repo.root.Close()); err != nil {
		return commit{}, err
	}
	j.warnOfEscapes(dir)
	return at, nil
}

// clone puts a revision of a repository into root, its Git directory into repo, and the submodules into both.
func (j *job) clone(
	ctx context.Context, root *os.Root, repo *repository, remote Remote, rev revision, level int,
) (commit, error) {
	started := time.Now()
	log := j.env.Log
	place := ""
	if repo.work != "" {
		log = log.With("submodule", repo.work)
		place = repo.work + "/"
	}
	log.Info("Cloning", "repository", remote, "revision", rev)
	j.meter.reset()
	j.log.Store(log)
	t := &tree{root: root, dir: place, meter: &j.meter}
	defer t.close()
	p, chosen, at, err := j.fetch(ctx, t, repo, remote, rev)
	if err != nil {
		return commit{}, err
	}
	defer p.file.Close()
	log.Info(
		"Found the revision", "commit", at.hash, "author", at.authorName, "time", at.time.Format(time.RFC3339),
		"took", time.Since(started),
	)

	started = time.Now()
	if err := t.write(ctx, p, at.tree); err != nil {
		return commit{}, err
	}
	inLFS, err := t.convert(ctx, log.Warn)
	if err != nil {
		return commit{}, err
	}
	if err := j.lfs(ctx, t, remote, inLFS, log); err != nil {
		return commit{}, err
	}
	if err := t.finish(); err != nil {
		return commit{}, err
	}
	if err := repo.keep(p); err != nil {
		return commit{}, err
	}
	log.Info("Checked out", "files", len(t.files), "took", time.Since(started))
	for _, l := range t.links {
		l.path = place + l.path
		if j.linkText += len(l.path) + len(l.target); j.linkText < mostLinkText {
			j.links = append(j.links, l)
		}
	}
	if j.submodulesWanted != no {
		if err := j.submodules(ctx, t, repo, remote, level); err != nil {
			return commit{}, err
		}
	}
	if err := repo.write(t, p, remote, at, chosen); err != nil {
		return commit{}, err
	}
	p.forget()
	j.list(t)
	return at, nil
}

// list notes what is in the source now, but for submodules, which are noted on their own, or stay empty.
func (j *job) list(t *tree) {
	j.listed = slices.Grow(j.listed, len(t.files))
	for _, f := range t.files {
		mode := fs.FileMode(f.onDisk & 0o777)
		if f.onDisk&unix.S_IFMT == unix.S_IFLNK {
			mode |= fs.ModeSymlink
		}
		j.listed = append(j.listed, workspace.Entry{
			Path: t.dir + f.path, Mode: mode, Size: f.size, Hashed: f.hashed, Sum: f.sum,
		})
	}
	for path := range t.folders.empty() {
		j.listed = append(j.listed, workspace.Entry{Path: t.dir + path, Mode: fs.ModeDir})
	}
}

// fetch gets the revision at depth 1, or where the server cannot do that, with its history.
func (j *job) fetch(
	ctx context.Context, t *tree, repo *repository, remote Remote, rev revision,
) (p *pack, chosen choice, at commit, err error) {
	for {
		if p, chosen, err = j.receive(ctx, t, repo, remote, rev); err != nil {
			return nil, chosen, at, err
		}
		if err = p.resolveAll(ctx, plumbing.CommitObject, plumbing.TagObject); err == nil {
			at, err = chosen.find(p, rev)
		}
		if err == nil && !chosen.commitsOnly {
			return p, chosen, at, nil
		}
		p.file.Close()
		if err != nil {
			return nil, chosen, at, err
		}
		rev = revision{commit: at.hash.String()} // the history told which; now the commit itself
	}
}

// receive fetches once, and again as long as that may help.
func (j *job) receive(
	ctx context.Context, t *tree, repo *repository, remote Remote, rev revision,
) (p *pack, chosen choice, err error) {
	var final error
	err = j.env.Retry.Do(ctx, func(ctx context.Context) error {
		if err := t.reset(); err != nil {
			return err
		}
		j.meter.reset()
		file, err := repo.newPack()
		if err != nil {
			return err
		}
		err = j.client.fetch(ctx, remote, func(adv *advertisement) (request, error) {
			var err error
			chosen, err = rev.choose(adv)
			return chosen.request, err
		}, func(r io.Reader) error {
			var err error
			var list lister
			if !chosen.commitsOnly {
				list = &arriving{tree: t, find: func(p *pack) (commit, error) { return chosen.find(p, rev) }}
			}
			p, err = receivePack(ctx, r, file, repo.newSpill, list, &j.meter)
			return err
		})
		if err == nil {
			return nil
		}
		file.Close()
		if said, ok := errors.AsType[*serverError](err); ok && chosen.guessed {
			err = rev.noCommit()
			j.env.Log.Warn("The server refused the commit", "answer", said.text)
		}
		if lasting(err) {
			final = err
			return nil
		}
		return err
	})
	return p, chosen, errors.Join(err, final)
}

// warnOfEscapes names the symbolic links that lead out of the source. They stay, as git keeps them: builds that never
// look at one must not fail for it, and a path that goes through one is refused by the step that is given it.
func (j *job) warnOfEscapes(dir string) {
	var out []string
	for _, l := range j.links {
		_, err := workspace.Resolve(dir, l.path)
		if failure, ok := errors.AsType[*outcome.Error](err); ok && failure.Reason == outcome.PathEscapesRepository {
			out = append(out, fmt.Sprintf("%s -> %s", l.path, l.target))
		}
	}
	const shown = 10
	if len(out) > shown {
		out = append(out[:shown], fmt.Sprintf("and %d more", len(out)-shown))
	}
	if len(out) > 0 {
		j.env.Log.Warn(
			"Symbolic links lead out of the repository; no step follows them", "links", strings.Join(out, ", "),
		)
	}
}

// wrap puts where it happened before an error that keeps its reason and hint.
func wrap(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}
