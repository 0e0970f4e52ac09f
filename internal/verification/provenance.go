package verification

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// The predicate types that are known here.
const (
	SignPredicate     = "https://sigstore.dev/cosign/sign/v1"
	runPredicate      = "https://stepwright.dev/attestations/run/v1"
	slsaPredicate     = "https://slsa.dev/provenance/" // and the version
	spdxPredicate     = "https://spdx.dev/Document"
	slsa02, slsa1     = slsaPredicate + "v0.2", slsaPredicate + "v1"
	gitURI, gitDigest = "git+", "gitCommit"
)

// Provenance is how an image was built, as far as its provenance tells.
type Provenance struct {
	Predicate  string `json:"predicateType"`
	Builder    string `json:"builder,omitempty"`
	BuildType  string `json:"buildType,omitempty"`
	Repository string `json:"repository,omitempty"` // URL, as the provenance has it, without git+
	Commit     string `json:"commit,omitempty"`
	Run        string `json:"run,omitempty"` // what the builder calls the invocation
	Signer     Signer `json:"signer"`
}

// source is where a build's source is from.
type source struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest"`
}

func (s source) commit() string { return cmp.Or(s.Digest[gitDigest], s.Digest["sha1"]) }

// vcs is what BuildKit is told of the source.
type vcs struct {
	VCS struct {
		Source, Revision string
	} `json:"vcs"`
}

// readProvenance reads SLSA's provenance of version 1 or 0.2, as BuildKit and our builders write it.
func readProvenance(s Statement) (Provenance, error) {
	p := Provenance{Predicate: s.Predicate, Signer: s.Signer}
	switch s.Predicate {
	case slsa1:
		var doc struct {
			Predicate struct {
				BuildDefinition struct {
					BuildType          string `json:"buildType"`
					ExternalParameters struct {
						ConfigSource source `json:"configSource"`
						Repository   struct {
							URL      string `json:"url"`
							Revision struct {
								Commit string `json:"commit"`
							} `json:"revision"`
						} `json:"repository"`
					} `json:"externalParameters"`
					ResolvedDependencies []source `json:"resolvedDependencies"`
				} `json:"buildDefinition"`
				RunDetails struct {
					Builder struct {
						ID string `json:"id"`
					} `json:"builder"`
					Metadata struct {
						InvocationID string `json:"invocationId"`
						BuildKit     vcs    `json:"buildkit_metadata"`
					} `json:"metadata"`
				} `json:"runDetails"`
			} `json:"predicate"`
		}
		if err := json.Unmarshal(s.Payload, &doc); err != nil {
			return p, err
		}
		definition, run := doc.Predicate.BuildDefinition, doc.Predicate.RunDetails
		asked := definition.ExternalParameters
		p.Builder, p.BuildType, p.Run = run.Builder.ID, definition.BuildType, run.Metadata.InvocationID
		sources := []source{
			{asked.Repository.URL, map[string]string{gitDigest: asked.Repository.Revision.Commit}},
			asked.ConfigSource,
			{run.Metadata.BuildKit.VCS.Source, map[string]string{gitDigest: run.Metadata.BuildKit.VCS.Revision}},
		}
		for _, d := range definition.ResolvedDependencies {
			if strings.HasPrefix(d.URI, gitURI) {
				sources = append(sources, d)
			}
		}
		p.from(sources...)
	case slsa02:
		var doc struct {
			Predicate struct {
				BuildType string `json:"buildType"`
				Builder   struct {
					ID string `json:"id"`
				} `json:"builder"`
				Invocation struct {
					ConfigSource source `json:"configSource"`
				} `json:"invocation"`
				Metadata struct {
					BuildInvocationID string `json:"buildInvocationID"`
					BuildKit          vcs    `json:"https://mobyproject.org/buildkit@v1#metadata"`
				} `json:"metadata"`
			} `json:"predicate"`
		}
		if err := json.Unmarshal(s.Payload, &doc); err != nil {
			return p, err
		}
		told := doc.Predicate
		p.Builder, p.BuildType, p.Run = told.Builder.ID, told.BuildType, told.Metadata.BuildInvocationID
		p.from(told.Invocation.ConfigSource, source{
			told.Metadata.BuildKit.VCS.Source,
			map[string]string{gitDigest: told.Metadata.BuildKit.VCS.Revision},
		})
	default:
		return p, fmt.Errorf("provenance %s is of a version that is not known", s.Predicate)
	}
	return p, nil
}

// from takes the first of some sources that tells of a commit.
func (p *Provenance) from(sources ...source) {
	for _, s := range sources {
		if s.commit() != "" {
			uri, _, _ := strings.Cut(strings.TrimPrefix(s.URI, gitURI), "#")
			p.Repository, p.Commit = uri, s.commit()
			return
		}
	}
}

// Expected is what must be told of an image. What is empty may be anything.
type Expected struct {
	Builder    string // its id
	Repository string // URL; a scheme, .git and a slash at the end make no difference
	Commit     string // whole, or its beginning
	Run        string // as a statement of the run names it, or the provenance where there is none
	Namespace  string // of the run; only a statement of the run tells it, and the branch
	Branch     string // or tag
}

// Any tells whether anything is expected.
func (e Expected) Any() bool { return e != Expected{} }

// MinCommit is how many characters the beginning of a commit must have.
const MinCommit = 7

// differences are what is told otherwise than expected.
type differences []string

func (d *differences) add(what, want, got string, same bool) {
	if want != "" && !same {
		*d = append(*d, fmt.Sprintf("%s is %q, and not %q", what, got, want))
	}
}

func (d differences) String() string { return strings.Join(d, ", ") }

// source notes what is told otherwise of the source.
func (e Expected) source(d *differences, repository, commit string) {
	d.add("the repository", e.Repository, repository, bare(e.Repository) == bare(repository))
	d.add("the commit", e.Commit, commit, len(e.Commit) >= MinCommit && strings.HasPrefix(commit, e.Commit))
}

// mismatch says what a provenance tells otherwise; empty when nothing.
func (e Expected) mismatch(p Provenance) string {
	var d differences
	d.add("the builder", e.Builder, p.Builder, e.Builder == p.Builder)
	e.source(&d, p.Repository, p.Commit)
	d.add("the run", e.Run, p.Run, e.Run == p.Run)
	return d.String()
}

// bare is a repository's URL without what makes no difference.
func bare(url string) string {
	url = strings.TrimPrefix(url, gitURI)
	if _, rest, ok := strings.Cut(url, "://"); ok {
		url = rest
	}
	return strings.TrimSuffix(strings.TrimSuffix(url, "/"), ".git")
}
