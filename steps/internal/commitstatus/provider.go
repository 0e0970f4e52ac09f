package commitstatus

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// The values of provider in status-hosts.
const (
	github     = "github"
	gitlab     = "gitlab"
	bitbucket  = "bitbucket"
	dataCenter = "bitbucket-data-center"
	gitea      = "gitea"
)

// provider is how one kind of host takes statuses. Lengths are in characters.
type provider struct {
	name   string
	api    string            // path of the API on a host of one's own
	public map[string]string // base URLs of the API for hosts that have it elsewhere
	states map[string]string // its words for the values of status

	description int // how long a description may be
	context     int // how long a context may be
	link        int // how long a link may be

	request   func(at target, what status) (path []string, body map[string]string)
	authorize func(header http.Header, who credentials)
	// already tells whether a refusal says that the commit has this status; may be nil.
	already func(state, said string) bool
}

// providers are all that there are, by their names.
var providers = map[string]*provider{
	github: {
		// POST /repos/{owner}/{repo}/statuses/{sha}: https://docs.github.com/rest/commits/statuses. A description of
		// more than 140 characters is answered with 422.
		name: github, api: "/api/v3", public: map[string]string{"github.com": "https://api.github.com"},
		states:      map[string]string{pending: "pending", success: "success", failure: "failure", cancelled: "error"},
		description: 140, context: 255, link: 2048,
		request: statuses, authorize: bearer,
	},
	gitlab: {
		// POST /projects/:id/statuses/:sha: https://docs.gitlab.com/api/commits/#set-commit-pipeline-status.
		name: gitlab, api: "/api/v4",
		states: map[string]string{
			pending: "running", success: "success", failure: "failed", cancelled: "canceled",
		},
		description: 255, context: 255, link: 255,
		request: func(at target, what status) ([]string, map[string]string) {
			return []string{"projects", strings.Join(at.repository, "/"), "statuses", what.commit}, map[string]string{
				"state": what.state, "name": what.context, "description": what.description, "target_url": what.link,
				"ref": what.branch,
			}
		},
		authorize: func(header http.Header, who credentials) { header.Set("PRIVATE-TOKEN", who.token) },
		already: func(state, said string) bool {
			from := transition.FindStringSubmatch(said)
			return from != nil && from[1] == state
		},
	},
	bitbucket: {
		// POST /repositories/{workspace}/{repo_slug}/commit/{commit}/statuses/build:
		// https://developer.atlassian.com/cloud/bitbucket/rest/api-group-commit-statuses/. A key has at most 40
		// characters.
		name: bitbucket, api: "/2.0", public: map[string]string{"bitbucket.org": "https://api.bitbucket.org/2.0"},
		states: map[string]string{
			pending: "INPROGRESS", success: "SUCCESSFUL", failure: "FAILED", cancelled: "STOPPED",
		},
		description: 255, context: 40, link: 512,
		request: func(at target, what status) ([]string, map[string]string) {
			page := "https://bitbucket.org/" + strings.Join(at.repository, "/") + "/commits/" + what.commit
			return append(append([]string{"repositories"}, at.repository...),
				"commit", what.commit, "statuses", "build"), build(what, page)
		},
		authorize: basicOrBearer,
	},
	dataCenter: {
		// POST /projects/{projectKey}/repos/{repositorySlug}/commits/{commitId}/builds, since 7.4:
		// https://developer.atlassian.com/server/bitbucket/how-tos/updating-build-status-for-commits.
		name: dataCenter, api: "/rest/api/latest",
		states: map[string]string{
			pending: "INPROGRESS", success: "SUCCESSFUL", failure: "FAILED", cancelled: "CANCELLED",
		},
		description: 255, context: 255, link: 450,
		request: func(at target, what status) ([]string, map[string]string) {
			path := []string{"projects", at.repository[0], "repos", at.repository[1], "commits", what.commit}
			page := *at.api
			page.Path, page.RawPath = strings.TrimSuffix(page.Path, "/rest/api/latest"), ""
			return append(path, "builds"), build(what, page.JoinPath(escaped(path)...).String())
		},
		authorize: basicOrBearer,
	},
	gitea: {
		// POST /repos/{owner}/{repo}/statuses/{sha}: the operation repoCreateStatus of
		// https://docs.gitea.com/api. Forgejo has the same.
		name: gitea, api: "/api/v1",
		states:      map[string]string{pending: "pending", success: "success", failure: "failure", cancelled: "error"},
		description: 255, context: 255, link: 2048,
		request: statuses,
		authorize: func(header http.Header, who credentials) {
			if who.token == "" {
				basicOrBearer(header, who)
				return
			}
			header.Set("Authorization", "token "+who.token)
		},
	},
}

// transition is how GitLab refuses a status that the commit has already.
var transition = regexp.MustCompile(`Cannot transition status via :\w+ from :(\w+)`)

// statuses is the request of GitHub, and of those that took it over.
func statuses(at target, what status) ([]string, map[string]string) {
	return append(append([]string{"repos"}, at.repository...), "statuses", what.commit), map[string]string{
		"state": what.state, "context": what.context, "description": what.description, "target_url": what.link,
	}
}

// build is the body of Bitbucket's requests, which must have a URL.
func build(what status, otherwise string) map[string]string {
	body := map[string]string{
		"key": what.context, "name": what.name, "state": what.state, "description": what.description, "url": what.link,
	}
	if what.link == "" {
		body["url"] = otherwise
	}
	return body
}

func bearer(header http.Header, who credentials) { header.Set("Authorization", "Bearer "+who.token) }

func basicOrBearer(header http.Header, who credentials) {
	if who.username == "" || who.password == "" {
		bearer(header, who)
		return
	}
	request := http.Request{Header: header}
	request.SetBasicAuth(who.username, who.password)
}

// escaped are segments of a path as they stand in a URL.
func escaped(path []string) []string {
	all := make([]string, len(path))
	for i, segment := range path {
		all[i] = url.PathEscape(segment)
	}
	return all
}
