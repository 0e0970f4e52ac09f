// Package portal checks what makes the portal show the builds of an external CI: annotations of Components, and Helm
// values of OpenChoreo's control plane. The portal itself says nothing about either: a card stays empty, or away.
package portal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// The annotations that a card of the portal needs.
const (
	JobAnnotation  = "jenkins.io/job-full-name"
	SlugAnnotation = "github.com/project-slug"

	gitLabID       = "gitlab.com/project-id"
	gitLabSlug     = "gitlab.com/project-slug"
	gitLabInstance = "gitlab.com/instance"
)

// callbackPath is where the portal's backend takes what an OAuth provider sends back.
const callbackPath = "/api/auth/github/handler/frame"

// public is the host of GitHub itself.
const public = "github.com"

var (
	number   = regexp.MustCompile(`^[1-9][0-9]*$`)
	project  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$`)
	client   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	slug     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+$`)
	host     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?$`)
	callback = regexp.MustCompile(`^https?://[^/\s?#]+(/[^\s?#]*)?/api/auth/[A-Za-z0-9-]+/handler/frame$`)
)

// values are the Helm values that matter here. An absent one has the chart's default.
type values struct {
	Backstage struct {
		BaseURL string `json:"baseUrl"`
		Auth    struct {
			RedirectURLs []string `json:"redirectUrls"`
		} `json:"auth"`
		ExternalCI struct {
			Jenkins struct {
				Enabled  bool    `json:"enabled"`
				BaseURL  *string `json:"baseUrl"`
				Username *string `json:"username"`
			} `json:"jenkins"`
			GitHubActions struct {
				Enabled    bool    `json:"enabled"`
				Host       *string `json:"host"`
				APIBaseURL string  `json:"apiBaseUrl"`
				OAuth      struct {
					ClientID string `json:"clientId"`
				} `json:"oauth"`
			} `json:"githubActions"`
		} `json:"externalCI"`
	} `json:"backstage"`
}

// Check returns every fault of the Components' annotations and of the Helm values of a set. The callback is the URL
// that the GitHub OAuth App has; empty when it is not known.
func Check(set *objects.Set, callback string) []objects.Fault {
	var faults []objects.Fault
	for _, o := range set.OfKind("Component") {
		faults = append(faults, checkAnnotations(o)...)
	}
	for _, o := range set.Values {
		faults = append(faults, checkValues(o)...)
	}
	if callback != "" {
		faults = append(faults, checkCallback(set, callback)...)
	}
	return faults
}

func checkAnnotations(o *objects.Object) []objects.Fault {
	component, err := objects.Decode[struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}](o)
	if err != nil {
		return nil // its faults are the set's
	}
	var faults []objects.Fault
	annotations := component.Metadata.Annotations
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		value := annotations[name]
		fault := func(format string, args ...any) {
			faults = append(faults, o.Fault([]string{
				"metadata", "annotations", name,
			}, "", fmt.Sprintf(format, args...)))
		}
		if check, known := forms[name]; known {
			if what, suggestion := check(value); what != "" {
				fault("%q is not %s%s", value, what, suggestion)
			}
		} else if meant := near(name, annotationsOfCards); meant != "" {
			fault("no card of the portal reads this annotation; is %s meant?", meant)
		}
	}
	return faults
}

// forms check the annotations that lead a card to its builds. Each says what a value is not, or nothing, and what may
// be meant.
var forms = map[string]func(value string) (what, suggestion string){
	JobAnnotation: func(value string) (string, string) {
		if isJob(value) {
			return "", ""
		}
		return "the full name of a Jenkins job, which has the form folder/job", meant(jobOf(value), isJob)
	},
	SlugAnnotation: func(value string) (string, string) {
		isSlug := func(text string) bool { return slug.MatchString(text) && !strings.HasSuffix(text, ".git") }
		if isSlug(value) {
			return "", ""
		}
		return "the name of a GitHub repository, which has the form org/repo, without a host and without .git",
			meant(slugOf(value), isSlug)
	},
	gitLabSlug: func(value string) (string, string) {
		isProject := func(text string) bool { return project.MatchString(text) && !strings.HasSuffix(text, ".git") }
		if isProject(value) && !number.MatchString(value) {
			return "", ""
		}
		if number.MatchString(value) {
			return "the path of a GitLab project but a number, which belongs into " + gitLabID, ""
		}
		return "the path of a GitLab project, which has the form group/project or group/subgroup/project, without " +
			"a host and without .git", meant(strings.TrimSuffix(slugOf(value), "/-"), isProject)
	},
	gitLabID: func(value string) (string, string) {
		if number.MatchString(value) {
			return "", ""
		}
		return "the number of a GitLab project, which its page shows; a path belongs into " + gitLabSlug, ""
	},
	gitLabInstance: func(value string) (string, string) {
		if host.MatchString(value) {
			return "", ""
		}
		return "the host of a GitLab, such as gitlab.example.com, without scheme and path",
			meant(hostOf(value), host.MatchString)
	},
}

// annotationsOfCards are the annotations that cards of the portal and its plugins for CI read.
var annotationsOfCards = []string{
	JobAnnotation, "jenkins.io/github-folder",
	SlugAnnotation, "github.com/team-slug", "github.com/user-login",
	gitLabID, gitLabSlug, gitLabInstance, "gitlab.com/codeowners-path", "gitlab.com/readme-path",
}

// meant suggests a value, if it has the right form.
func meant(value string, right func(string) bool) string {
	if !right(value) {
		return ""
	}
	return fmt.Sprintf("; is %s meant?", value)
}

// isJob tells whether a text is the full name of a job: the names of its folders and its own. The path of a job's URL,
// where job stands before each name, is not.
func isJob(text string) bool {
	names := strings.Split(text, "/")
	if names[0] == "job" && len(names) > 1 {
		return false
	}
	return !strings.ContainsAny(text, `\?#*<>|"`) && !slices.ContainsFunc(names, func(name string) bool {
		return name == "" || strings.TrimSpace(name) != name
	})
}

// jobOf makes the full name of a job of what people give instead: its URL or the path of that, as /job/folder/job/name,
// or the full name with a slash too many.
func jobOf(text string) string {
	text = strings.TrimSpace(text)
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		text = u.Path
	}
	var all, named []string
	for name := range strings.SplitSeq(text, "/") {
		if name != "" {
			all = append(all, name)
		}
	}
	for i := max(slices.Index(all, "job"), 0); i+1 < len(all) && all[i] == "job"; i += 2 {
		named = append(named, all[i+1])
	}
	if len(named) == 0 {
		named = all
	}
	return strings.Join(named, "/")
}

// hostOf is the host of a URL.
func hostOf(text string) string {
	u, err := url.Parse(strings.TrimSpace(text))
	if err != nil {
		return ""
	}
	return u.Host
}

// slugOf makes org/repo of what people give instead: a URL of the repository, for HTTPS or SSH.
func slugOf(text string) string {
	text = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSpace(text), "/"), ".git")
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		return strings.Trim(u.Path, "/")
	}
	if _, path, ok := strings.Cut(text, ":"); ok {
		return strings.Trim(path, "/")
	}
	if first, rest, ok := strings.Cut(text, "/"); ok && strings.Contains(first, ".") {
		return rest
	}
	return text
}

func checkValues(o *objects.Object) []objects.Fault {
	faults := checkKeys(o)
	v, err := objects.Decode[values](o)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		wanted := map[reflect.Kind]string{
			reflect.String: "text", reflect.Bool: "true or false", reflect.Slice: "a list", reflect.Struct: "a mapping",
		}
		message := fmt.Sprintf("must be %s, but is read as %s", wanted[wrong.Type.Kind()], wrong.Value)
		if wrong.Type.Kind() == reflect.String {
			message += ": put it in quotes"
		}
		return append(faults, o.Fault(strings.Split(wrong.Field, "."), "", message))
	} else if err != nil {
		return append(faults, o.Fault([]string{"backstage"}, "", err.Error()))
	}
	fault := func(path string, format string, args ...any) {
		faults = append(faults, o.Fault(strings.Split(path, "."), "", fmt.Sprintf(format, args...)))
	}

	jenkins := v.Backstage.ExternalCI.Jenkins
	const ofJenkins = "backstage.externalCI.jenkins"
	if jenkins.Enabled {
		switch {
		case jenkins.BaseURL == nil:
			fault(ofJenkins, "baseUrl is missing: the chart's own, https://jenkins.example.com, is only an example")
		case !isURL(*jenkins.BaseURL):
			fault(
				ofJenkins+".baseUrl", "%q is not the URL of a Jenkins, such as https://jenkins.example.com",
				*jenkins.BaseURL,
			)
		case strings.Contains(*jenkins.BaseURL, "/job/"):
			fault(
				ofJenkins+".baseUrl",
				"%q is the URL of a job: give that of Jenkins itself, and the job in the Component's annotation %s",
				*jenkins.BaseURL, JobAnnotation,
			)
		}
		if jenkins.Username == nil || *jenkins.Username == "" {
			fault(ofJenkins, "username is missing: it is whose API token the key jenkins-api-key holds")
		}
	}

	github := v.Backstage.ExternalCI.GitHubActions
	const ofGitHub = "backstage.externalCI.githubActions"
	at := public
	if github.Host != nil {
		at = *github.Host
	}
	switch api := strings.TrimSuffix(github.APIBaseURL, "/"); {
	case !host.MatchString(at):
		fault(
			ofGitHub+".host",
			"%q is not the name of a host, such as github.com or ghe.example.com: it has neither scheme nor path", at,
		)
	case at == public && api != "" && api != "https://api.github.com":
		fault(
			ofGitHub+".apiBaseUrl",
			"%q is not the API of github.com: leave it empty, or set host, too, if GitHub Enterprise Server is meant",
			github.APIBaseURL,
		)
	case at != public && api == "":
		fault(
			ofGitHub+".host",
			"%s without apiBaseUrl: the portal would ask https://api.github.com about it; set apiBaseUrl to "+
				"https://%s/api/v3",
			at, at,
		)
	case at != public && api != "https://"+at+"/api/v3" && api != "http://"+at+"/api/v3":
		fault(ofGitHub+".apiBaseUrl", "%q is not the API of %s, which is https://%s/api/v3", github.APIBaseURL, at, at)
	}

	switch id := github.OAuth.ClientID; {
	case github.Enabled && id == "":
		fault(
			ofGitHub,
			"oauth.clientId is missing: the card asks GitHub as the person who looks at it, and an OAuth App signs "+
				"people in",
		)
	case id != "" && !client.MatchString(id):
		fault(ofGitHub+".oauth.clientId", "%q is not the client ID of an OAuth App, such as Ov23liabcdefghij0123", id)
	}

	base := strings.TrimSuffix(v.Backstage.BaseURL, "/")
	if v.Backstage.BaseURL != "" && !isURL(base) {
		fault(
			"backstage.baseUrl", "%q is not the URL of the portal, such as https://portal.example.com",
			v.Backstage.BaseURL,
		)
	}
	for i, redirect := range v.Backstage.Auth.RedirectURLs {
		path := fmt.Sprintf("backstage.auth.redirectUrls.%d", i)
		if !callback.MatchString(redirect) {
			fault(
				path,
				"%q does not have the form of a callback URL of the portal, %s/api/auth/<provider>/handler/frame",
				redirect, orExample(base),
			)
		} else if base != "" && !strings.HasPrefix(redirect, base+"/api/auth/") {
			fault(path, "%q is not of the portal at backstage.baseUrl, %s", redirect, base)
		}
	}
	return faults
}

func isURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil &&
		u.RawQuery == "" && u.Fragment == ""
}

func orExample(base string) string {
	if base == "" {
		return "https://portal.example.com"
	}
	return base
}

// CallbackURL is the URL that the GitHub OAuth App must send people back to, by these Helm values; empty when they say
// nothing of one.
func CallbackURL(o *objects.Object) string {
	v, err := objects.Decode[values](o)
	if err != nil || v.Backstage.ExternalCI.GitHubActions.OAuth.ClientID == "" || !isURL(v.Backstage.BaseURL) {
		return ""
	}
	return strings.TrimSuffix(v.Backstage.BaseURL, "/") + callbackPath
}

// checkCallback checks the form of the OAuth App's callback URL, and compares it with the Helm values.
func checkCallback(set *objects.Set, given string) []objects.Fault {
	if !isURL(given) || !strings.HasSuffix(given, callbackPath) {
		return []objects.Fault{{Field: "--github-callback-url",
			Message: fmt.Sprintf("%q does not have the form https://portal.example.com%s", given, callbackPath)}}
	}
	var faults []objects.Fault
	for _, o := range set.Values {
		if want := CallbackURL(o); want != "" && want != given {
			faults = append(faults, o.Fault([]string{
				"backstage", "baseUrl",
			}, "",
				fmt.Sprintf(
					"the portal sends %s to GitHub, but the OAuth App has %s: people could not sign in", want, given,
				)))
		}
	}
	return faults
}
