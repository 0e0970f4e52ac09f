package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/stepwright/stepwright/schemas"
)

// forBuild is a CEL expression: whether the spec s of a SecretReference lets the run's component read the secret, by an
// annotation that is true, or lists components. Without it, who may write a WorkflowRun could read every secret of the
// namespace.
func forBuild(annotation string) string {
	label := func(name string) string {
		return fmt.Sprintf(
			`("openchoreo.dev/%[1]s" in metadata.labels ? metadata.labels["openchoreo.dev/%[1]s"] : "")`, name,
		)
	}
	const annotations = `s.template.metadata.annotations`
	return `has(s.template) && has(s.template.metadata) && has(` + annotations + `) && ` +
		strconv.Quote(annotation) + ` in ` + annotations + "\n" +
		`  && ` + annotations + `[` + strconv.Quote(annotation) + `].split(",").map(c, c.trim())` + "\n" +
		`  .exists(c, c == "true" || c == ` + label("project") + ` + "/*" || c == ` + label("project") + ` + "/" + ` +
		label("component") + `)`
}

// refused is an entry of an ExternalSecret's data that no store has, so that there is no Secret. External Secrets takes
// none without data, and OpenChoreo would try again without end. The key tells the fault to readers of events.
func refused(why string) string {
	return fmt.Sprintf(`{"secretKey": "refused", "remoteRef": {"key": "stepwright.dev-%s"}}`, why)
}

// buildSecrets is the parameter that names SecretReferences for a Dockerfile's RUNs: at most so many, and the patterns
// of the fields of one.
type buildSecrets struct {
	most            int
	name, secretRef string
}

const buildSecretsParameter = "buildSecrets"

// buildSecretsOf returns nil for a builder whose developers have no such parameter.
func buildSecretsOf(properties []*schemas.Property) (*buildSecrets, error) {
	i := slices.IndexFunc(properties, func(p *schemas.Property) bool { return p.Name == buildSecretsParameter })
	if i < 0 {
		return nil, nil
	}
	list := properties[i]
	all := &buildSecrets{most: list.MaxItems}
	for _, p := range list.Items.Properties {
		switch p.Name {
		case "name":
			all.name = p.Pattern
		case "secretRef":
			all.secretRef = p.Pattern
		}
	}
	if all.most < 1 || all.name == "" || all.secretRef == "" {
		return nil, fmt.Errorf("%s lacks maxItems, or a pattern of name or secretRef", buildSecretsParameter)
	}
	return all, nil
}

// buildSecretReference begins the ids of the SecretReferences: OpenChoreo resolves one by one, so there is an id for
// each place in the list.
const buildSecretReference = "build-secret-"

// references are the entries of externalRefs.
func (b *buildSecrets) references() string {
	var all strings.Builder
	for i := range b.most {
		fmt.Fprintf(&all, "- id: %s%d\n  apiVersion: openchoreo.dev/v1alpha1\n  kind: SecretReference\n%s",
			buildSecretReference, i, indented("  ", field("name", lookup(buildSecretsParameter)+
				fmt.Sprintf("\n.map(l, type(l) == list && size(l) > %[1]d ? l[%[1]d] : null)", i)+
				"\n.map(o, type(o) == map && \"secretRef\" in o ? o[\"secretRef\"] : null)"+
				"\n.map(v, "+secretReference{pattern: b.secretRef}.isName()+` ? v : "")[0]`)))
	}
	return all.String()
}

// places is the list [0, 1, …] of all places.
func (b *buildSecrets) places() string {
	var all []string
	for i := range b.most {
		all = append(all, strconv.Itoa(i))
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// includeWhen is whether there is a SecretReference at all.
func (b *buildSecrets) includeWhen() string {
	return field("includeWhen", lookup(buildSecretsParameter)+
		"\n.map(l, type(l) == list ? l : [])"+
		"\n.exists(l, "+b.places()+".exists(i, size(l) > i && type(l[i]) == map && \"secretRef\" in l[i]"+
		"\n  && [l[i][\"secretRef\"]].exists(v, "+secretReference{pattern: b.secretRef}.isName()+")))")
}

// data is the data of the one ExternalSecret: an entry for each SecretReference, with the name of the build secret. One
// that is not for it, or lacks the key, is refused, and with it all.
func (b *buildSecrets) data() string {
	reference := strconv.Quote(buildSecretReference) + " + string(i)"
	const remote = `found[0].remoteRef`
	optional := func(name string) string {
		return fmt.Sprintf(`"%[2]s": has(%[1]s.%[2]s) && %[1]s.%[2]s != "" ? %[1]s.%[2]s : oc_omit()`, remote, name)
	}
	return field("data", lookup(buildSecretsParameter)+`
.map(l, type(l) == list ? l : [])
.map(l, `+b.places()+`.filter(i, `+reference+` in externalRefs).map(i,
  [externalRefs[`+reference+`].spec].map(s,
  !(`+forBuild("stepwright.dev/build-secrets")+`)
  ? `+refused("build-secrets-is-not-annotated")+`
  : !("name" in l[i] && type(l[i]["name"]) == string && l[i]["name"].matches(`+strconv.Quote(b.name)+`))
  ? `+refused("build-secret-has-no-valid-name")+`
  : ["key" in l[i] && type(l[i]["key"]) == string ? l[i]["key"] : ""].map(key,
    (has(s.data) ? s.data : []).filter(d, key == "" ? size(s.data) == 1 : d.secretKey == key))
  .map(found, size(found) != 1
    ? `+refused("build-secret-has-no-such-key-or-several")+`
    : {
      "secretKey": l[i]["name"],
      "remoteRef": {
        "key": `+remote+`.key,
        `+optional("property")+`,
        `+optional("version")+`
      }
    })[0])[0]))[0]`)
}
