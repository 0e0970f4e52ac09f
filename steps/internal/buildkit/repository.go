package buildkit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/source"
	gitsource "github.com/moby/buildkit/source/git"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/moby/buildkit/util/progress/logs"

	"github.com/stepwright/stepwright/internal/outcome"
)

// checkoutProgram is the step that fetches repositories. It is beside this executable, as in the image of this step, or
// in the PATH.
const checkoutProgram = "checkout-source"

// repositories fetches what ADD takes from Git, by the program of the step that fetches sources: BuildKit's own source
// needs Git, and with it a shell. BuildKit's own is embedded for its reading of what a Dockerfile says.
type repositories struct {
	*gitsource.Source
	cache    cache.Accessor
	caBundle string
	scratch  string // directory for credentials, which no RUN sees
}

func newRepositories(accessor cache.Accessor, c Config) (*repositories, error) {
	known, err := gitsource.NewSource(gitsource.Opt{CacheAccessor: accessor})
	return &repositories{Source: known, cache: accessor, caBundle: c.CABundle, scratch: c.Root}, err
}

// Resolve returns what fetches a repository that Identifier returned.
func (r *repositories) Resolve(
	_ context.Context, id source.Identifier, sessions *session.Manager, _ solver.Vertex,
) (source.SourceInstance, error) {
	wanted, ok := id.(*gitsource.GitIdentifier)
	if !ok {
		return nil, fmt.Errorf("a repository of type %T", id)
	}
	return &repository{repositories: r, wanted: wanted, sessions: sessions}, nil
}

// repository is one revision of a repository, or a folder of it.
type repository struct {
	*repositories
	wanted   *gitsource.GitIdentifier
	sessions *session.Manager
	fetched  cache.ImmutableRef // nil before it was needed
}

// unfetched is why a repository could not be had.
type unfetched struct {
	url    string
	report outcome.Report
}

func (u *unfetched) Error() string { return u.report.Message }

func (u *unfetched) outcome() *outcome.Error {
	return outcome.Errorf(u.report.Reason, "%s", u.report.Message).WithHint(u.report.Hint)
}

// name is how a Dockerfile names the repository, and what of it.
func (r *repository) name() string {
	name := r.wanted.Remote
	if r.wanted.Ref != "" || r.wanted.Subdir != "" {
		name += "#" + r.wanted.Ref
	}
	if r.wanted.Subdir != "" {
		name += ":" + r.wanted.Subdir
	}
	return name
}

func (r *repository) failed(reason outcome.Reason, hint, format string, args ...any) error {
	return &unfetched{url: r.name(), report: outcome.Report{
		Reason: reason, Message: fmt.Sprintf(format, args...), Hint: hint,
	}}
}

// CacheKey is the commit, and what is taken of it. Where the Dockerfile names a branch or tag it is fetched for that.
func (r *repository) CacheKey(
	ctx context.Context, job solver.JobContext, _ int,
) (key, pin string, options solver.CacheOpts, done bool, err error) {
	commit := r.wanted.Ref
	if !gitutil.IsCommitSHA(commit) {
		if commit, err = r.fetch(ctx, job); err != nil {
			return "", "", nil, false, err
		}
	}
	if !strings.HasPrefix(commit, strings.ToLower(r.wanted.Checksum)) {
		return "", "", nil, false, r.failed(
			outcome.RevisionNotFound, "Correct the checksum, if the change is meant.",
			"the commit is %s, and its checksum is to be %s", commit, r.wanted.Checksum,
		)
	}
	key = fmt.Sprintf(
		"%s:%s:git=%t:submodules=%t",
		commit,
		r.wanted.Subdir,
		r.wanted.KeepGitDir,
		!r.wanted.SkipSubmodules,
	)
	return key, commit, nil, true, nil
}

// Snapshot returns the files.
func (r *repository) Snapshot(ctx context.Context, job solver.JobContext) (cache.ImmutableRef, error) {
	if r.fetched == nil {
		if _, err := r.fetch(ctx, job); err != nil {
			return nil, err
		}
	}
	return r.fetched.Clone(), nil
}

// fetch fetches the revision, until the job's end, and returns its commit.
func (r *repository) fetch(ctx context.Context, job solver.JobContext) (commit string, err error) {
	if r.wanted.Bundle != "" || r.wanted.CheckoutBundle || r.wanted.VerifySignature != nil {
		return "", errors.New("neither bundles nor signatures of repositories are supported")
	}
	var group session.Group
	if job != nil {
		group = job.Session()
	}
	made, err := r.cache.New(
		ctx, nil, group, cache.WithRecordType(client.UsageRecordTypeGitCheckout),
		cache.WithDescription("repository "+r.wanted.String()),
	)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			made.Release(context.WithoutCancel(ctx))
		}
	}()
	mounts, err := made.Mount(ctx, false, group)
	if err != nil {
		return "", err
	}
	mounter := snapshot.LocalMounter(mounts)
	dir, err := mounter.Mount()
	if err != nil {
		return "", err
	}
	commit, err = r.checkout(ctx, group, dir)
	if err = errors.Join(err, mounter.Unmount()); err != nil {
		return "", err
	}
	ref, err := made.Commit(ctx)
	if err != nil {
		return "", err
	}
	r.fetched = ref
	if job != nil {
		err = job.Cleanup(func() error { return ref.Release(context.WithoutCancel(ctx)) })
	}
	return commit, err
}

// checkout puts the files of the revision into a directory, and returns its commit.
func (r *repository) checkout(ctx context.Context, group session.Group, dir string) (commit string, err error) {
	if strings.HasPrefix(r.wanted.Remote, "ssh://") || !strings.Contains(r.wanted.Remote, "://") {
		return "", r.failed(
			outcome.AuthenticationFailed,
			"Use https, with the build secret GIT_AUTH_TOKEN for a private repository, or make it a submodule.",
			"a repository over SSH needs a key, and a build has none",
		)
	}
	program, err := findCheckout()
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, ".checkout-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	secret, err := os.MkdirTemp(r.scratch, "git-secret-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(secret)
	if err := r.writeSecret(ctx, group, secret); err != nil {
		return "", err
	}
	results := filepath.Join(work, "results")
	revision := "--branch=" + r.wanted.Ref
	switch {
	case r.wanted.Ref == "":
		revision = "--branch=HEAD"
	case gitutil.IsCommitSHA(r.wanted.Ref):
		revision = "--commit=" + r.wanted.Ref
	}
	cmd := exec.CommandContext(
		ctx, program, "--git-repo="+r.wanted.Remote, revision, "--workspace="+filepath.Join(work, "volume"),
		"--results-dir="+results, "--termination-message-path="+filepath.Join(work, "message"),
		fmt.Sprintf("--submodules=%t", !r.wanted.SkipSubmodules), "--git-secret-dir="+secret, "--ca-bundle="+r.caBundle,
	)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return !slices.Contains(passed, strings.ToUpper(name))
	})
	stdout, stderr, flush := logs.NewLogStreams(ctx, false)
	defer stdout.Close()
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := os.Mkdir(filepath.Join(work, "volume"), 0o755); err != nil {
		return "", err
	}
	ended := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	report, err := outcome.Read(results)
	if err != nil {
		return "", fmt.Errorf("%s did not tell how it ended: %w", checkoutProgram, errors.Join(ended, err))
	}
	if report.Reason != outcome.Succeeded {
		flush()
		return "", &unfetched{r.name(), report}
	}
	if err := r.move(filepath.Join(work, "volume", "source"), dir); err != nil {
		return "", err
	}
	return report.Results["git-commit"], nil
}

// passed are the variables of the environment that reach the program. Others could be parameters of it.
var passed = []string{
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR", "PATH",
}

// findCheckout returns the path of the program that fetches repositories.
func findCheckout() (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), checkoutProgram)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(checkoutProgram)
	if err != nil {
		return "", outcome.Errorf(
			outcome.BuilderUnavailable, "%s, which fetches repositories, is not installed: %w", checkoutProgram, err,
		).WithHint("Put it beside containerfile-build, or let a daemon build: buildkit-address.")
	}
	return path, nil
}

// move puts what a Dockerfile gets of a checked-out tree into a directory of the same file system.
func (r *repository) move(tree, to string) error {
	from := tree
	folder := filepath.Join("/", r.wanted.Subdir)
	for name := range strings.SplitSeq(strings.TrimPrefix(folder, "/"), "/") {
		from = filepath.Join(from, name)
		if info, err := os.Lstat(from); err != nil || !info.IsDir() {
			return r.failed(
				outcome.RevisionNotFound, "Correct the path after the colon.", "the repository has no folder %q",
				r.wanted.Subdir,
			)
		}
	}
	if !r.wanted.KeepGitDir {
		// A submodule's is a file that leads into the repository's.
		err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != ".git" {
				return err
			}
			if err := os.RemoveAll(path); err != nil || !entry.IsDir() {
				return err
			}
			return fs.SkipDir
		})
		if err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.Rename(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// writeSecret writes the credentials for the repository's host that the build was given for it, as a Secret that the
// program reads. They are GIT_AUTH_TOKEN and GIT_AUTH_HEADER, with the host behind a dot or without, as in Docker.
func (r *repository) writeSecret(ctx context.Context, group session.Group, dir string) error {
	remote, err := url.Parse(r.wanted.Remote)
	if err != nil {
		return err
	}
	var username, password string
	for _, name := range []string{
		r.wanted.AuthHeaderSecret + "." + remote.Host, r.wanted.AuthTokenSecret + "." + remote.Host,
		r.wanted.AuthHeaderSecret, r.wanted.AuthTokenSecret,
	} {
		if name == "" || strings.HasPrefix(name, ".") || group == nil {
			continue
		}
		var value []byte
		err := r.sessions.Any(ctx, group, func(ctx context.Context, _ string, caller session.Caller) (err error) {
			value, err = secrets.GetSecret(ctx, caller, name)
			return err
		})
		if errors.Is(err, secrets.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		username, password = "x-access-token", strings.TrimSpace(string(value))
		if strings.HasPrefix(name, r.wanted.AuthHeaderSecret) {
			scheme, encoded, _ := strings.Cut(password, " ")
			decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
			var found bool
			username, password, found = strings.Cut(string(decoded), ":")
			if err != nil || !found || !strings.EqualFold(scheme, "basic") {
				return r.failed(
					outcome.AuthenticationFailed, "Give GIT_AUTH_TOKEN, or a header of basic authentication.",
					"the build secret %s is no header of basic authentication", name,
				)
			}
		}
		break
	}
	if password == "" {
		return nil
	}
	for name, content := range map[string]string{
		"username": username, "password": password, "git-hosts": remote.Host,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}
