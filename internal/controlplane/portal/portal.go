// Package portal checks what makes the portal show the builds of an external CI: annotations of Components, and Helm
// values of OpenChoreo's control plane. The portal itself says nothing about either: a card stays empty, or away.
package portal

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/stepwright/stepwright/internal/controlplane/objects"
)

// The annotations that a card of the portal needs.
const (
	JobAnnotation  = "jenkins.io/job-full-name"
	SlugAnnotation = "github.com/project-slug"
)

// callbackPath is where the portal's backend takes what an OAuth provider sends back.
const callbackPath = "/api/auth/github/handler/frame"

// public is the host of GitHub itself.
const public = "github.com"

var (
	jobPath  = regexp.MustCompile(`^(/job/[^/\s]+)+$`)
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
	fault := func(annotation, format string, args ...any) {
		faults = append(faults, o.Fault([]string{
			"metadata", "annotations", annotation,
		}, "", fmt.Sprintf(format, args...)))
	}
	if job, given := component.Metadata.Annotations[JobAnnotation]; given && !jobPath.MatchString(job) {
		fault(
			JobAnnotation, "%q is not the path of a Jenkins job, which has the form /job/org/job/name%s", job,
			meant(jobOf(job), jobPath),
		)
	}
	if project, given := component.Metadata.Annotations[SlugAnnotation]; given && (!slug.MatchString(project) ||
		strings.HasSuffix(project, ".git")) {
		fault(
			SlugAnnotation,
			"%q is not the name of a GitHub repository, which has the form org/repo, without a host and without .git%s",
			project, meant(slugOf(project), slug),
		)
	}
	return faults
}

// meant suggests a value, if it has the right form.
func meant(value string, form *regexp.Regexp) string {
	if !form.MatchString(value) {
		return ""
	}
	return fmt.Sprintf("; is %s meant?", value)
}

// jobOf makes the path of a job of what people give instead: its URL, or its full name, folder/name.
func jobOf(text string) string {
	text = strings.TrimSpace(text)
	if u, err := url.Parse(text); err == nil && u.Host != "" {
		text = u.Path
		if i := strings.Index(text, "/job/"); i >= 0 {
			text = text[i:]
		}
	}
	var path strings.Builder
	names := strings.Split(strings.Trim(text, "/"), "/")
	for i, name := range names {
		if name == "job" && i%2 == 0 && len(names)%2 == 0 {
			continue
		}
		path.WriteString("/job/" + name)
	}
	return path.String()
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
	v, err := objects.Decode[values](o)
	if err != nil {
		return []objects.Fault{o.Fault([]string{"backstage"}, "", err.Error())}
	}
	var faults []objects.Fault
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
