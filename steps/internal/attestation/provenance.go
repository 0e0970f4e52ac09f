package attestation

import (
	_ "embed"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/package-url/packageurl-go"

	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

//go:embed VERSION
var version string

// Version is the version of Stepwright, which the home of the version, templates/VERSION, has.
func Version() string { return strings.TrimSpace(version) }

// The types of builds. docs/platform/provenance.md describes them.
const (
	DockerfileBuild = "https://stepwright.dev/build-types/dockerfile/v1"
	BuildpacksBuild = "https://stepwright.dev/build-types/buildpacks/v1"
)

// What the parameter provenance may be.
const (
	ProvenanceNone = "none"
	ProvenanceMin  = "min"
	ProvenanceMax  = "max"
)

// SLSA is the predicate of SLSA's provenance, version 1, as far as it is used here.
type SLSA struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition says what was to be built.
type BuildDefinition struct {
	BuildType            string     `json:"buildType"`
	ExternalParameters   Parameters `json:"externalParameters"`
	InternalParameters   any        `json:"internalParameters,omitempty"`
	ResolvedDependencies []Resource `json:"resolvedDependencies"`
}

// Parameters are what a WorkflowRun said, by the names that it has for them, as far as a step knows it. The branch is
// left out: a commit is the same whichever branch led to it.
type Parameters struct {
	Component  *Component  `json:"component,omitempty"`
	Repository *Repository `json:"repository,omitempty"`
	Docker     *Docker     `json:"docker,omitempty"`
	BuildArgs  []Variable  `json:"buildArgs,omitempty"`
	BuildEnv   []Variable  `json:"buildEnv,omitempty"`

	Labels []step.NameValue `json:"labels,omitempty"` // that were asked for; everybody who has the image sees them
}

// Component is whom an image is for.
type Component struct {
	Namespace string `json:"namespace"`
	Project   string `json:"project"`
	Name      string `json:"name"`
}

// ComponentOf is the owner of an image; nil when it has none.
func ComponentOf(owner step.Owner) *Component {
	if owner.Label() == "" {
		return nil
	}
	return &Component{owner.Namespace, owner.Project, owner.Component}
}

// Repository is where the source is from.
type Repository struct {
	URL      string `json:"url,omitempty"`
	Revision struct {
		Commit string `json:"commit,omitempty"`
	} `json:"revision"`
	AppPath string `json:"appPath,omitempty"`
}

// RepositoryOf is the repository of a revision; nil when it is not known.
func RepositoryOf(revision workspace.Revision, appPath string) *Repository {
	if revision.URL == "" && revision.Commit == "" {
		return nil
	}
	r := &Repository{URL: revision.URL, AppPath: appPath}
	r.Revision.Commit = revision.Commit
	return r
}

// Docker are the parameters of a Dockerfile's build.
type Docker struct {
	Context  string `json:"context"`
	FilePath string `json:"filePath"`
	Target   string `json:"target,omitempty"`
	// Platforms are those that were asked for, where there are several or one by that parameter.
	Platforms []string `json:"platforms,omitempty"`
}

// Variable is a variable or an argument of a build. People put into values what is not meant for everybody who can pull
// the image, so that only the mode max tells them.
type Variable struct {
	Name  string  `json:"name"`
	Value *string `json:"value,omitempty"`
}

// Variables tells the variables of a build in a mode of provenance.
func Variables(all []step.NameValue, mode string) []Variable {
	var told []Variable
	for _, v := range all {
		variable := Variable{Name: v.Name}
		if mode == ProvenanceMax {
			variable.Value = &v.Value
		}
		told = append(told, variable)
	}
	return told
}

// Resource is what a build used.
type Resource struct {
	URI         string            `json:"uri"`
	Digest      map[string]string `json:"digest,omitempty"` // algorithm to hexadecimal
	Annotations map[string]string `json:"annotations,omitempty"`
}

// The annotation of a Resource that says by whom it is told. Without it, it is told by the step's own code, which the
// code of the build cannot change.
const (
	ToldBy   = "stepwright.dev/told-by"
	TheBuild = "build" // code of the build has a hand in it
)

// Source is the repository at the commit. There is none when the commit is not known.
func Source(revision workspace.Revision) []Resource {
	if revision.URL == "" || revision.Commit == "" {
		return nil
	}
	digest := map[string]string{"gitCommit": revision.Commit}
	if len(revision.Commit) == 40 {
		digest["sha1"] = revision.Commit // as BuildKit calls it
	}
	return []Resource{{URI: repositoryURI(revision.URL), Digest: digest}}
}

// repositoryURI is the URI of a repository in SPDX's and SLSA's form. Git's own short form of SSH is no URI.
func repositoryURI(url string) string {
	if strings.Contains(url, "://") {
		return "git+" + url
	}
	if host, path, ok := strings.Cut(url, ":"); ok && !strings.Contains(host, "/") {
		return "git+ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	return "git+" + url
}

// Image is a container image that a build used. The reference has a digest, or the image is named only.
func Image(reference string, platform v1.Platform) (Resource, error) {
	ref, err := name.ParseReference(reference)
	if err != nil {
		return Resource{}, fmt.Errorf("image %.200q: %w", reference, err)
	}
	// As BuildKit writes it: Docker Hub goes without its name.
	repository := strings.TrimPrefix(ref.Context().Name(), name.DefaultRegistry+"/")
	repository = strings.TrimPrefix(repository, "library/")
	namespace, base := "", repository
	if slash := strings.LastIndex(repository, "/"); slash >= 0 {
		namespace, base = repository[:slash], repository[slash+1:]
	}
	var qualifiers packageurl.Qualifiers
	var resource Resource
	tag := ""
	switch ref := ref.(type) {
	case name.Tag:
		tag = ref.TagStr()
	case name.Digest:
		tag = tagOf(reference)
		digest, err := v1.NewHash(ref.DigestStr())
		if err != nil {
			return resource, fmt.Errorf("image %.200q: %w", reference, err)
		}
		qualifiers = append(qualifiers, packageurl.Qualifier{Key: "digest", Value: digest.String()})
		resource.Digest = map[string]string{digest.Algorithm: digest.Hex}
	}
	qualifiers = append(qualifiers, packageurl.Qualifier{Key: "platform", Value: platform.String()})
	resource.URI = packageurl.NewPackageURL(packageurl.TypeDocker, namespace, base, tag, qualifiers, "").ToString()
	return resource, nil
}

// tagOf is the tag of a reference that has a digest, too.
func tagOf(reference string) string {
	reference, _, _ = strings.Cut(reference, "@")
	if tag, err := name.NewTag(reference, name.WithDefaultTag("")); err == nil {
		return tag.TagStr()
	}
	return ""
}

// RunDetails says how it was built.
type RunDetails struct {
	Builder  Builder   `json:"builder"`
	Metadata *Metadata `json:"metadata,omitempty"`
}

// Builder is the step that made the image.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version"`
}

// BuilderOf is a step as a builder.
func BuilderOf(step string) Builder {
	return Builder{
		ID: "https://stepwright.dev/steps/" + step, Version: map[string]string{"stepwright": Version()},
	}
}

// Metadata tells of one run of a build. It is there only where an image differs from run to run anyway.
type Metadata struct {
	StartedOn  time.Time `json:"startedOn"`
	FinishedOn time.Time `json:"finishedOn"`
}
