package templates_test

import (
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stepwright/stepwright/templates"
)

type object = map[string]any

// secretReference is a SecretReference of keys in the store, annotated for builds by a value; nil: it is not.
func secretReference(annotation any, keys ...string) object {
	data := []any{}
	for _, key := range keys {
		data = append(data, object{"secretKey": key, "remoteRef": object{"key": "store/" + key, "property": "p"}})
	}
	spec := object{"data": data}
	if annotation != nil {
		spec["template"] = object{"metadata": object{
			"annotations": object{"stepwright.dev/build-secrets": annotation},
		}}
	}
	return object{"spec": spec}
}

// A developer's build secrets become the keys of one Secret of the run, for which the build waits. Nobody gets what is
// not for builds, or another component's.
func TestBuildSecretsOfARun(t *testing.T) {
	t.Parallel()
	cluster := readYAML(t, dockerfileBuilder)
	references := object{
		"npm": secretReference("true", "npmrc"), "several": secretReference("true", "a", "b"),
		"git": secretReference(nil, "password"), "off": secretReference("false", "x"),
		"cart":     secretReference("shop/cart, shop/till", "x"),
		"till":     secretReference("shop/till", "x"),
		"shop":     secretReference("shop/*", "x"),
		"bank":     secretReference("bank/*", "x"),
		"prefix":   secretReference("shop/car", "x"),
		"no-keys":  secretReference("true"),
		"no-value": secretReference("", "x"),
	}
	entry := func(name, key string) object {
		return object{"secretKey": name, "remoteRef": object{"key": "store/" + key, "property": "p"}}
	}
	refused := func(why string) object {
		return object{"secretKey": "refused", "remoteRef": object{"key": "stepwright.dev-" + why}}
	}
	const notForBuilds, noName = "build-secrets-is-not-annotated", "build-secret-has-no-valid-name"
	const noKey = "build-secret-has-no-such-key-or-several"
	secret := func(name, ref string, key ...any) object {
		o := object{"name": name, "secretRef": ref}
		if len(key) > 0 {
			o["key"] = key[0]
		}
		return o
	}
	nine := []any{}
	for range 9 {
		nine = append(nine, object{"secretRef": ""})
	}
	nine[8] = secret("npmrc", "npm")
	for about, test := range map[string]struct {
		given any
		want  []any // data of the ExternalSecret; nil: there is none
	}{
		"none":                      {[]any{}, nil},
		"one":                       {[]any{secret("npmrc", "npm")}, []any{entry("npmrc", "npmrc")}},
		"another name than the key": {[]any{secret("id", "npm")}, []any{entry("id", "npmrc")}},
		"several of one": {
			[]any{secret("a1", "several", "a"), secret("b1", "several", "b")},
			[]any{entry("a1", "a"), entry("b1", "b")},
		},
		"of several": {
			[]any{secret("n", "npm", ""), secret("b1", "several", "b")}, []any{entry("n", "npmrc"), entry("b1", "b")},
		},
		"which of several is not said": {[]any{secret("x", "several")}, []any{refused(noKey)}},
		"a key that is not there":      {[]any{secret("x", "several", "c")}, []any{refused(noKey)}},
		"a reference without keys":     {[]any{secret("x", "no-keys")}, []any{refused(noKey)}},
		"a Git secret":                 {[]any{secret("x", "git", "password")}, []any{refused(notForBuilds)}},
		"an annotation that is false":  {[]any{secret("x", "off")}, []any{refused(notForBuilds)}},
		"an annotation without value":  {[]any{secret("x", "no-value")}, []any{refused(notForBuilds)}},
		"its own":                      {[]any{secret("x", "cart")}, []any{entry("x", "x")}},
		"its project's":                {[]any{secret("x", "shop")}, []any{entry("x", "x")}},
		"another component's":          {[]any{secret("x", "till")}, []any{refused(notForBuilds)}},
		"another project's":            {[]any{secret("x", "bank")}, []any{refused(notForBuilds)}},
		"one whose name begins so":     {[]any{secret("x", "prefix")}, []any{refused(notForBuilds)}},
		"one good and one not": {
			[]any{secret("a", "npm"), secret("b", "git")}, []any{entry("a", "npmrc"), refused(notForBuilds)},
		},
		"a name that is no key":       {[]any{secret("../a", "npm")}, []any{refused(noName)}},
		"a name for External Secrets": {[]any{secret("{{ .x }}", "npm")}, []any{refused(noName)}},
		"no name":                     {[]any{object{"secretRef": "npm"}}, []any{refused(noName)}},
		"the place after the last":    {nine, nil},
		"after a gap":                 {[]any{nil, "x", object{}, secret("n", "npm")}, []any{entry("n", "npmrc")}},
		"a key that is no text":       {[]any{secret("n", "npm", []any{"npmrc"})}, []any{entry("n", "npmrc")}},
	} {
		t.Run(about, func(t *testing.T) {
			workflow, resources, err := renderRun(cluster, run{
				labels: map[string]string{"openchoreo.dev/project": "shop", "openchoreo.dev/component": "cart"},
				parameters: object{
					"repository": object{"url": "https://git.example.com/acme/cart.git"}, "buildSecrets": test.given,
				},
				references: references,
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []any
			if made := resources["build-secrets"]; made != nil {
				got = at(made, "spec", "data").([]any)
				if name := at(made, "spec", "target", "name"); name != "cart-1-build-secrets" {
					t.Errorf("the Secret is %v", name)
				}
			}
			if diff := gocmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			env, err := stepVariables(t, workflow)
			if err != nil {
				t.Fatal(err)
			}
			if waits := env["containerfile-build BUILD_SECRETS"] != "[]"; waits != (about != "none") {
				t.Errorf("BUILD_SECRETS=%s", env["containerfile-build BUILD_SECRETS"])
			}
		})
	}
}

// Whatever stands where build secrets belong, the run begins, and what names no SecretReference makes no Secret: one
// that OpenChoreo cannot render would be pending for ever.
func TestNoBuildSecretBreaksARun(t *testing.T) {
	t.Parallel()
	cluster := readYAML(t, dockerfileBuilder)
	for about, value := range strange {
		for place, given := range map[string]any{
			"buildSecrets": value, "an item": []any{value}, "name": []any{object{"name": value, "secretRef": "npm"}},
			"secretRef": []any{object{"name": "a", "secretRef": value}},
			"key":       []any{object{"name": "a", "secretRef": "npm", "key": value}},
		} {
			name, _ := value.(string)
			_, resources, err := renderRun(cluster, run{
				parameters: object{"repository": object{"url": "https://h/r"}, "buildSecrets": given},
				references: object{"npm": secretReference("true", "npmrc"), "a": secretReference("true", "x")},
			})
			if err != nil {
				t.Errorf("%s is %s: %v", place, about, err)
				continue
			}
			made := resources["build-secrets"]
			if want := place == "name" || place == "key" || place == "secretRef" && name == "a"; (made != nil) != want {
				t.Errorf("%s is %s: the Secret is %v", place, about, made)
			}
			if made != nil && len(at(made, "spec", "data").([]any)) != 1 {
				t.Errorf("%s is %s: External Secrets takes no Secret without data: %v", place, about, made)
			}
		}
	}
}

// Only builds with a Dockerfile have build secrets, and the Secret is in the build's pod alone.
func TestBuildSecretsAreWithTheBuildAlone(t *testing.T) {
	t.Parallel()
	for _, template := range ofKind(build(t, "workflow-plane"), "ClusterWorkflowTemplate") {
		name := at(template, "metadata", "name")
		volumes, _ := at(template, "spec", "templates", 0, "volumes").([]any)
		has := false
		for _, v := range volumes {
			secret, _ := at(v, "secret", "secretName").(string)
			has = has || strings.HasSuffix(secret, "-build-secrets")
		}
		if has != (name == "containerfile-build") {
			t.Errorf("%v has build secrets: %t", name, has)
		}
	}
	for _, builder := range templates.Builders() {
		_, resources, err := renderRun(readYAML(t, "control-plane/"+builder.Workflow+".yaml"), run{
			parameters: object{"repository": object{"url": "https://h/r"},
				"buildSecrets": []any{object{"name": "a", "secretRef": "npm"}}},
			references: object{"npm": secretReference("true", "npmrc")},
		})
		if err != nil || resources["build-secrets"] != nil {
			t.Errorf("%s: %v, %v", builder.Workflow, resources["build-secrets"], err)
		}
	}
}
