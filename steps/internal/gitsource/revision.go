package gitsource

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/go-git/go-git/v5/plumbing"

	"github.com/stepwright/stepwright/internal/outcome"
)

// revision is what to check out. A commit wins over the branch (docs/contract.md section 5).
type revision struct {
	branch string // or tag
	commit string // SHA or a prefix of one, in lower case
}

func (r revision) String() string { return cmp.Or(r.commit, r.branch) }

// shortPrefix is the length below which a prefix that matches a branch's commit may well match another commit of the
// history, too.
const shortPrefix = 7

// choice is what a revision means in a repository.
type choice struct {
	request
	object plumbing.Hash // commit or tag; zero when the history must tell which commit begins with the prefix
	prefix string
	name   string // full name of the branch, tag or other reference that was asked for

	refs          []ref  // all that the server has
	defaultBranch string // full name of the one that the server's HEAD is on

	guessed bool // the server did not say that it has the object
}

// choose finds the revision among the server's references, and the request that gets it, at depth 1 where that is
// possible.
func (r revision) choose(adv *advertisement) (choice, error) {
	c, err := r.pick(adv)
	c.refs = adv.refs
	c.defaultBranch, _ = strings.CutPrefix(adv.capabilities["symref"], "HEAD:")
	return c, err
}

// tags are those that lead to a commit.
func (c choice) tags(at plumbing.Hash) []ref {
	return slices.DeleteFunc(slices.Clone(c.refs), func(r ref) bool {
		return r.commit() != at || !strings.HasPrefix(r.name, "refs/tags/") ||
			plumbing.ReferenceName(r.name).Validate() != nil
	})
}

func (r revision) pick(adv *advertisement) (choice, error) {
	if len(adv.refs) == 0 {
		return choice{}, outcome.Errorf(outcome.RepositoryInvalid, "the repository is empty: it has no commits")
	}
	depth := 0
	if adv.supports("shallow") {
		depth = 1
	}
	if r.commit == "" {
		found, ok := r.named(adv)
		if !ok {
			return choice{}, r.absent(adv)
		}
		return choice{
			request: request{wants: []plumbing.Hash{found.hash}, depth: depth}, object: found.hash, name: found.name,
		}, nil
	}

	anyCommit := adv.supports("allow-reachable-sha1-in-want", "allow-any-sha1-in-want")
	history := request{wants: adv.history()}
	var object plumbing.Hash
	if !decodeHash(&object, r.commit) {
		tips := adv.tips(r.commit)
		switch {
		case len(tips) > 1:
			return choice{}, ambiguous(r.commit, tips)
		case len(tips) == 0 || len(r.commit) < shortPrefix:
			history.commitsOnly = anyCommit && adv.supports("filter")
			return choice{request: history, prefix: r.commit}, nil
		}
		object = tips[0]
	}
	for _, ref := range adv.refs {
		if ref.hash == object || ref.peeled == object {
			return choice{request: request{wants: []plumbing.Hash{ref.hash}, depth: depth}, object: object}, nil
		}
	}
	if anyCommit {
		return choice{
			request: request{wants: []plumbing.Hash{object}, depth: depth},
			object:  object,
			guessed: true,
		}, nil
	}
	return choice{request: history, object: object}, nil
}

// named returns the branch, else the tag, else the reference of that full name.
func (r revision) named(adv *advertisement) (ref, bool) {
	for _, name := range []string{"refs/heads/" + r.branch, "refs/tags/" + r.branch, r.branch} {
		if found, ok := adv.find(name); ok {
			return found, true
		}
	}
	return ref{}, false
}

// history is what to want to get all commits of branches and tags, or of whatever there is.
func (a *advertisement) history() []plumbing.Hash {
	var some, all []plumbing.Hash
	for _, r := range a.refs {
		all = append(all, r.hash)
		if strings.HasPrefix(r.name, "refs/heads/") || strings.HasPrefix(r.name, "refs/tags/") {
			some = append(some, r.hash)
		}
	}
	if len(some) == 0 {
		some = all
	}
	plumbing.HashesSort(some)
	return slices.Compact(some)
}

// tips returns the commits with that prefix that branches and tags point at.
func (a *advertisement) tips(prefix string) []plumbing.Hash {
	var tips []plumbing.Hash
	for _, r := range a.refs {
		if strings.HasPrefix(r.commit().String(), prefix) {
			tips = append(tips, r.commit())
		}
	}
	plumbing.HashesSort(tips)
	return slices.Compact(tips)
}

func ambiguous(prefix string, matches []plumbing.Hash) error {
	return outcome.Errorf(
		outcome.RevisionNotFound, "commit %s is ambiguous: %s and %s both begin with it", prefix, matches[0],
		matches[1],
	).
		WithHint("Give more characters of the commit, best all 40.")
}

func (r revision) noCommit() *outcome.Error {
	return outcome.Errorf(outcome.RevisionNotFound, "commit %s is not in the repository", r.commit)
}

// How many names are compared with one that is not there, and how long such may be, in bytes.
const (
	mostCompared    = 10_000
	longestCompared = 255
)

// absent is the error for a branch that is not there. It names those that are, the likeliest first.
func (r revision) absent(adv *advertisement) error {
	var names []string
	for _, ref := range adv.refs {
		for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
			if name, ok := strings.CutPrefix(ref.name, prefix); ok {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	distance := map[string]int{}
	for i, name := range names {
		if i < mostCompared && len(name) <= longestCompared {
			distance[name] = levenshtein.Distance(r.branch, name, nil)
		} else {
			distance[name] = math.MaxInt
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(distance[a], distance[b]) })
	const shown = 5
	text := "there are none"
	if len(names) > 0 {
		quoted := make([]string, min(len(names), shown))
		for i := range quoted {
			quoted[i] = fmt.Sprintf("%.100q", names[i])
		}
		text = "there is " + strings.Join(quoted, ", ")
		if more := len(names) - shown; more > 0 {
			text += fmt.Sprintf(", and %d more", more)
		}
	}
	err := outcome.Errorf(outcome.RevisionNotFound, "branch or tag %q is not in the repository; %s", r.branch, text)
	if _, notHex := hex.DecodeString(r.branch); notHex == nil && len(r.branch) >= shortPrefix {
		return err.WithHint("It looks like a commit: give it as repository.revision.commit.")
	}
	return err
}

// find returns the commit of a choice in the pack that came for it. Commits and tags must be resolved.
func (c choice) find(p *pack, r revision) (commit, error) {
	object := c.object
	if c.prefix != "" {
		var matches []plumbing.Hash
		for _, e := range p.entries {
			if e.kind == plumbing.CommitObject && strings.HasPrefix(e.hash.String(), c.prefix) {
				matches = append(matches, e.hash)
			}
		}
		plumbing.HashesSort(matches)
		switch matches = slices.Compact(matches); len(matches) {
		case 0:
			return commit{}, r.noCommit()
		case 1:
			object = matches[0]
		default:
			return commit{}, ambiguous(c.prefix, matches)
		}
	}
	for {
		if _, ok := p.byHash[object]; !ok && object == c.object {
			return commit{}, r.noCommit()
		}
		kind, raw, err := p.object(object)
		if err != nil {
			return commit{}, err
		}
		switch kind {
		case plumbing.CommitObject:
			return parseCommit(object, raw)
		case plumbing.TagObject:
			if object, err = parseTag(object, raw); err != nil {
				return commit{}, err
			}
		default:
			return commit{}, outcome.Errorf(outcome.RevisionNotFound, "%s is a %s, not a commit", r, kind)
		}
	}
}
