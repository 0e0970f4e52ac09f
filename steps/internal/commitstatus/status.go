package commitstatus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// status is what a host is told, in its own words and within its limits.
type status struct {
	commit, branch string
	state          string
	context        string // its name among others of the commit
	name           string // the context as people read it
	description    string
	link           string
}

// status puts together what the host is told.
func (in Parameters) status(at target, revision workspace.Revision, env step.Environment) (status, error) {
	state, description, err := in.ending()
	if err != nil {
		return status{}, err
	}
	name := in.name()
	link, err := in.link(revision.Commit)
	if err != nil {
		return status{}, err
	}
	if utf8.RuneCountInString(link) > at.provider.link {
		env.Log.Warn("The link is longer than the host takes, and is left out", "limit", at.provider.link)
		link = ""
	}
	return status{
		commit: revision.Commit, branch: revision.Branch, state: at.provider.states[state],
		context: unique(name, at.provider.context), name: cut(name, 255),
		description: cut(description, at.provider.description), link: link,
	}, nil
}

// name is the context without any limit. No name of Kubernetes has a slash, so no two components have one.
func (in Parameters) name() string {
	if in.Context != "" {
		return quote.Line(in.Context, 0)
	}
	name := "stepwright"
	for _, part := range []string{in.Namespace, in.Project, in.Component} {
		if part != "" {
			name += "/" + part
		}
	}
	return name
}

// ending is how the build goes, and what is said of it.
func (in Parameters) ending() (state, description string, err error) {
	state = in.Status
	var first outcome.FailedStep
	if in.Failures != "" && state == failure {
		if first, err = outcome.FirstFailure(in.Failures); err != nil {
			return "", "", err
		}
		if first.Stopped || first.Reason == outcome.Cancelled {
			state = cancelled
		}
	}
	if in.Description != "" {
		return state, quote.Line(in.Description, 0), nil
	}
	switch state {
	case pending:
		return state, "The build runs", nil
	case success:
		return state, "The build has succeeded", nil
	case cancelled:
		return state, "The build was stopped", nil
	}
	return state, failing(first), nil
}

// failing says why a build failed: the reason and the first sentence of the step's message.
func failing(first outcome.FailedStep) string {
	said := sentence(first.Message)
	switch {
	case first.Step == "":
		return "The build has failed"
	case first.Reason == outcome.Failed && said == "":
		return quote.Line(first.Step, 0) + " has failed"
	case first.Reason == outcome.Failed:
		return quote.Line(first.Step, 0) + " has failed: " + said
	case said == "":
		return string(first.Reason)
	}
	return string(first.Reason) + ": " + said
}

// sentence is the first sentence of the first line of a text.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	text, _, _ = strings.Cut(text, "\n")
	if before, _, more := strings.Cut(text, ". "); more {
		text = before
	}
	return quote.Line(strings.TrimRight(text, ".: \r"), 0)
}

// cut shortens a text to a number of characters.
func cut(text string, limit int) string {
	if utf8.RuneCountInString(text) <= limit {
		return text
	}
	return string([]rune(text)[:limit-1]) + "…"
}

// digits is how many hexadecimal digits of a hash a shortened name has.
const digits = 16

// unique shortens a name to a number of characters, and no two names alike.
func unique(name string, limit int) string {
	if utf8.RuneCountInString(name) <= limit {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	return string([]rune(name)[:limit-digits-1]) + "-" + hex.EncodeToString(hash[:])[:digits]
}

// placeholder stands for a value in the link.
var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// link is the page about the build; empty when there is none. The error is an InvalidParameters.
func (in Parameters) link(commit string) (string, error) {
	values := map[string]string{
		"{namespace}": in.Namespace, "{project}": in.Project, "{component}": in.Component, "{run}": in.Run,
		"{commit}": commit,
	}
	var unknown []string
	fill := func(text string, escape func(string) string) string {
		return placeholder.ReplaceAllStringFunc(text, func(name string) string {
			value, ok := values[name]
			if !ok {
				unknown = append(unknown, fmt.Sprintf("status-link: there is no %s", name))
			}
			return escape(value)
		})
	}
	path, query, has := strings.Cut(in.Link, "?")
	link := fill(path, url.PathEscape)
	if has {
		link += "?" + fill(query, url.QueryEscape)
	}
	if len(unknown) > 0 {
		return "", outcome.Invalid(unknown...).WithHint(
			"The names are namespace, project, component, run and commit.",
		)
	}
	if u, err := url.Parse(link); link != "" && (err != nil || u.Host == "" || u.User != nil) {
		return "", outcome.Invalid("status-link: it is no URL of a page")
	}
	return link, nil
}
