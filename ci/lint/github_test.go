package lint

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestDependabotKnowsEveryModule: a module that nobody names there would never be updated.
func TestDependabotKnowsEveryModule(t *testing.T) {
	var config struct {
		Updates []struct {
			Ecosystem   string   `json:"package-ecosystem"`
			Directory   string   `json:"directory"`
			Directories []string `json:"directories"`
		} `json:"updates"`
	}
	decodeFile(t, ".github/dependabot.yml", &config)
	named := map[string][]string{}
	for _, u := range config.Updates {
		named[u.Ecosystem] = slices.Concat(named[u.Ecosystem], u.Directories)
		if u.Directory != "" {
			named[u.Ecosystem] = append(named[u.Ecosystem], u.Directory)
		}
	}
	for ecosystem, manifest := range map[string]string{"gomod": "go.mod", "npm": "package.json"} {
		var have []string
		for _, file := range tracked(t, "*"+manifest) {
			if path.Base(file) == manifest && !strings.Contains(file, "/testdata/") {
				have = append(have, path.Join("/", path.Dir(file)))
			}
		}
		for _, folder := range have {
			if !slices.Contains(named[ecosystem], folder) {
				t.Errorf("%s is not among the directories of %s", folder, ecosystem)
			}
		}
		for _, folder := range named[ecosystem] {
			if !slices.Contains(have, folder) {
				t.Errorf("%s: %s has no %s", ecosystem, folder, manifest)
			}
		}
	}
	if len(named["github-actions"]) == 0 {
		t.Error("actions of workflows are not updated")
	}
}

// pinnedAction is an action by its commit, with the version as a comment, or by its version; or a workflow of the same
// commit.
var pinnedAction = regexp.MustCompile(
	`^(\S+@([0-9a-f]{40} # v\d+\.\d+\.\d+|v\d+(\.\d+)*)|\./\.github/workflows/[a-z0-9-]+\.yml)$`,
)

// TestWorkflows: a job on somebody else's machine has no more rights than it needs, and its actions do not change.
// actionlint, in make lint, looks at the rest.
func TestWorkflows(t *testing.T) {
	for _, file := range tracked(t, ".github/workflows/*.yml") {
		var workflow struct {
			Permissions map[string]string `json:"permissions"`
		}
		raw := decodeFile(t, file, &workflow)
		if len(workflow.Permissions) != 1 || workflow.Permissions["contents"] != "read" {
			t.Errorf("%s: permissions are %v, not contents: read", file, workflow.Permissions)
		}
		for line := range strings.Lines(string(raw)) {
			_, action, found := strings.Cut(strings.TrimSpace(line), "uses: ")
			if found && !pinnedAction.MatchString(action) {
				t.Errorf("%s: %s is not pinned", file, action)
			}
		}
	}
}

// TestIssueForms: GitHub shows a form that it does not understand as none at all.
func TestIssueForms(t *testing.T) {
	for _, file := range tracked(t, ".github/ISSUE_TEMPLATE/*.yml") {
		if path.Base(file) == "config.yml" {
			var config struct {
				Links []struct {
					Name  string `json:"name"`
					URL   string `json:"url"`
					About string `json:"about"`
				} `json:"contact_links"`
			}
			decodeFile(t, file, &config)
			for _, link := range config.Links {
				if link.Name == "" || link.URL == "" || link.About == "" {
					t.Errorf("%s: %+v lacks something", file, link)
				}
			}
			continue
		}
		var form struct {
			Name        string `json:"name"`
			Description string `json:"description"`
			Body        []struct {
				Type       string `json:"type"`
				ID         string `json:"id"`
				Attributes struct {
					Label   string `json:"label"`
					Value   string `json:"value"`
					Options []any  `json:"options"`
				} `json:"attributes"`
			} `json:"body"`
		}
		decodeFile(t, file, &form)
		if form.Name == "" || form.Description == "" || len(form.Body) == 0 {
			t.Errorf("%s: needs name, description and body", file)
		}
		ids := map[string]bool{}
		for _, field := range form.Body {
			choice := field.Type == "dropdown" || field.Type == "checkboxes"
			switch {
			case field.Type == "markdown" && field.Attributes.Value != "":
			case !choice && field.Type != "input" && field.Type != "textarea":
				t.Errorf("%s: %s: there is no field of type %q", file, field.ID, field.Type)
			case field.ID == "" || ids[field.ID] || field.Attributes.Label == "":
				t.Errorf("%s: a field needs a label and an ID of its own: %+v", file, field)
			case choice != (len(field.Attributes.Options) > 0):
				t.Errorf("%s: %s: options belong to dropdown and checkboxes", file, field.ID)
			}
			ids[field.ID] = true
		}
	}
}

// decodeFile decodes a file of the project and returns its text.
func decodeFile(t *testing.T, file string, into any) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", file))
	if err == nil {
		err = yaml.Unmarshal(raw, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return raw
}
