package localplane

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	wfv1 "github.com/argoproj/argo-workflows/v4/pkg/apis/workflow/v1alpha1"

	"github.com/stepwright/stepwright/internal/controlplane/workflowrun"
	"github.com/stepwright/stepwright/internal/localplane/container"
	"github.com/stepwright/stepwright/internal/localplane/plan"
	"github.com/stepwright/stepwright/schemas"
)

// caBundlePath is where templates mount the ConfigMap with certificate authorities.
const caBundlePath = "/etc/stepwright/ca/ca.crt"

// Machine says what of this machine stands for the cluster in a run: the developer's files for the Secrets, the
// plane's addresses for the platform's settings. programs is the folder of the steps' binaries, and scratch the folder
// for the run's volumes; both paths are absolute.
func (p *Plane) Machine(run *workflowrun.Run, library *plan.Library, programs, scratch string) plan.Machine {
	m := plan.Machine{
		Programs:   programs,
		Scratch:    scratch,
		Settings:   p.settings(library, run.Text("repository", "url")),
		Secrets:    p.secrets(run.Name),
		ConfigMaps: map[string]plan.Source{},
		Volumes:    map[string]string{"buildkit": filepath.Join(p.State, "buildkit")},
		Mounts:     map[string]string{},
		Containers: &container.Runtime{
			Dir: p.Builders, Mirrors: p.Registry.Mirrors, Insecure: p.insecure(),
			DockerConfig: p.Registry.DockerConfig, CABundle: p.CABundle,
		},
		Images: map[string]string{},
		Trace:  traced(run.Name, time.Now()),
	}
	if TakesKey(library) {
		m.Secrets[run.Name+"-signing-key"] = p.Signing.source()
	}
	if p.Registry.BuilderImage != "" {
		for _, template := range library.WithSchema(buildpacksSchema) {
			m.Images[template.Name] = p.Registry.BuilderImage
		}
	}
	if p.Source.BuildSecrets != "" { // for templates of before, which have no Secret there
		m.Mounts["/etc/secrets/build-secrets"] = p.Source.BuildSecrets
	}
	if p.CABundle != "" {
		m.ConfigMaps["stepwright-ca-bundle"] = plan.Source{
			Files: map[string]string{filepath.Base(caBundlePath): p.CABundle},
		}
	}
	return m
}

// buildpacksSchema names the schema of the templates that build without a Dockerfile. There is one for each builder.
const buildpacksSchema = "buildpacks-build"

// dockerfileTemplate is the template that builds a Dockerfile.
const dockerfileTemplate = "containerfile-build"

// publishTemplate is the template that pushes and signs.
const publishTemplate = "publish-image"

// What the parameter signing of that template may be, besides keyless.
const signsNothing, signsByKey = "none", "key"

// workloadTemplate is the template that registers the Workload.
const workloadTemplate = "generate-workload"

// input finds an input parameter of a ClusterWorkflowTemplate; nil when it has none of that name.
func input(library *plan.Library, template, name string) *wfv1.Parameter {
	found := library.Templates[template]
	if found == nil {
		return nil
	}
	for _, t := range found.Spec.Templates {
		if in := t.Inputs.GetParameterByName(name); in != nil {
			return in
		}
	}
	return nil
}

// signs is how the templates sign: the default of the parameter signing. Templates without it sign nothing.
func signs(library *plan.Library) string {
	if in := input(library, publishTemplate, "signing"); in != nil && in.Default != nil {
		return in.Default.String()
	}
	return signsNothing
}

// Unsigned tells how the templates would sign, key or keyless, where this plane does not: it has a key that the
// developer gives, and no identity. It is empty where the image is signed as the templates say.
func (p *Plane) Unsigned(library *plan.Library) string {
	how := signs(library)
	if how == signsNothing || how == signsByKey && p.Signing.Key != "" {
		return ""
	}
	return how
}

// TakesKey tells whether the templates sign with a key.
func TakesKey(library *plan.Library) bool { return signs(library) == signsByKey }

// settings are what a platform engineer would have set, by template and input parameter. repository is the URL that the
// developer gave beside the Git secret.
func (p *Plane) settings(library *plan.Library, repository string) map[string]map[string]string {
	pull := map[string]string{
		"registry-mirrors":    jsonText(p.Registry.Mirrors),
		"insecure-registries": jsonText(p.insecure()),
	}
	push := map[string]string{
		"registry":            p.Registry.Push,
		"insecure-plain-http": strconv.FormatBool(p.PlainHTTP || p.ownRegistry),
	}
	all := map[string]map[string]string{
		// A Secret may come late; a folder that a developer names does not come much later.
		"checkout-source":  {"git-secret-timeout": "10"},
		dockerfileTemplate: join(pull, push),
		publishTemplate:    join(pull, push),
		workloadTemplate: {
			"api-server-url": p.API.URL, "oauth-token-url": p.API.TokenURL,
			"oauth-client-id": p.API.ClientID, "oauth-scope": p.API.Scope,
			"insecure-plain-http": strconv.FormatBool(p.PlainHTTP),
		},
	}
	if p.BuildKit.Address != "" {
		all[dockerfileTemplate]["buildkit-address"] = p.BuildKit.Address
		all[dockerfileTemplate]["buildkit-tls-dir"] = p.BuildKit.TLSDir
	}
	assertion := "" // only a cluster has the identity that an overlay may name here
	if p.API.ClientAssertionFile != "" {
		assertion = clientSecretPath + assertionFile
	}
	for name, value := range map[string]string{
		"oauth-client-auth": cmp.Or(p.API.ClientAuth, "client_secret_post"), "oauth-audience": p.API.Audience,
		"oauth-client-assertion-file": assertion, "oauth-client-assertion-audience": "",
	} {
		if input(library, workloadTemplate, name) != nil { // templates of before have none
			all[workloadTemplate][name] = value
		}
	}
	if p.Source.GitSecret != "" {
		all["checkout-source"]["git-secret-hosts"] = secretHosts(repository)
		all["checkout-source"]["insecure-git-http"] = strconv.FormatBool(p.Source.InsecureHTTP)
	}
	if p.Unsigned(library) != "" {
		all[publishTemplate]["signing"] = signsNothing
	}
	for _, template := range library.WithSchema("scan-gate") {
		all[template.Name] = join(pull, push)
	}
	for _, template := range library.WithSchema(buildpacksSchema) {
		settings := join(pull, push)
		if image := p.Registry.BuilderImage; image != "" {
			settings["builder-image"] = image
		}
		if image := p.Registry.RunImage; image != "" {
			settings["run-image"] = image
		}
		if p.Source.Bindings != "" { // which are there from the beginning
			settings["bindings-timeout"] = "0"
		}
		all[template.Name] = settings
	}
	for template, settings := range all {
		// What this machine gives is there from the beginning, or it is not wanted.
		for name, value := range map[string]string{
			"pull-secret-required": "false", "push-secret-required": "false", "secret-timeout": "0",
		} {
			if input(library, template, name) != nil { // templates of before have none
				settings[name] = value
			}
		}
		settings["ca-bundle"] = "" // an overlay's is for registries and an API that are not those of this run
		if p.CABundle != "" {
			settings["ca-bundle"] = caBundlePath
		}
	}
	return all
}

// An assertion is a file beside the client's secret, where the template mounts that.
const (
	clientSecretPath = "/etc/secrets/oauth-client-secret/"
	assertionFile    = "client-assertion"
)

// secrets are those that OpenChoreo would have External Secrets make for a run, by their names.
func (p *Plane) secrets(run string) map[string]plan.Source {
	registry := func() plan.Source {
		if p.Registry.DockerConfig == "" {
			return plan.Source{}
		}
		return plan.Source{Files: map[string]string{".dockerconfigjson": p.Registry.DockerConfig}}
	}
	client := map[string]string{}
	if p.API.ClientSecretFile != "" {
		client["client-secret"] = p.API.ClientSecretFile
	}
	if p.API.ClientAssertionFile != "" {
		client[assertionFile] = p.API.ClientAssertionFile
	}
	all := map[string]plan.Source{
		run + "-registry-pull-secret": registry(),
		run + "-registry-push-secret": registry(),
		run + "-oauth-client-secret":  {Files: client},
	}
	if p.Source.GitSecret != "" && p.Source.Folder == "" {
		all[run+"-git-secret"] = plan.Source{Dir: p.Source.GitSecret}
	}
	if p.Source.Bindings != "" {
		all[run+"-bindings"] = plan.Source{Copy: p.Source.Bindings}
	}
	if p.Source.BuildSecrets != "" {
		all[run+"-build-secrets"] = plan.Source{Dir: p.Source.BuildSecrets}
	}
	return all
}

// source are the key's files; none without a key.
func (s Signing) source() plan.Source {
	files := map[string]string{}
	if s.Key != "" {
		files["cosign.key"] = s.Key
	}
	if s.Password != "" {
		files["cosign.password"] = s.Password
	}
	return plan.Source{Files: files}
}

// secretHosts are the Git servers that the developer's secret is for: the repository's, whatever its port, since the
// developer named both, and those that every secret is for.
func secretHosts(repository string) string {
	var hosts []string
	for _, property := range schemas.MustLoad("checkout-source").Properties {
		if property.Name == "git-secret-hosts" {
			hosts = append(hosts, schemas.Text(property.Default))
		}
	}
	host := ""
	if u, err := url.Parse(repository); err == nil && u.Host != "" {
		host = u.Hostname()
	} else if before, _, ok := strings.Cut(repository, ":"); ok && !strings.Contains(before, "/") { // user@host:path
		host = before[strings.LastIndexByte(before, '@')+1:]
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if hostName.MatchString(host) { // else the step tells the fault of the URL
		hosts = append(hosts, host+":*")
	}
	return strings.Join(hosts, ",")
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9._-]+$|^\[[0-9A-Fa-f:.]+\]$`)

// join copies settings into one map.
func join(parts ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, part := range parts {
		maps.Copy(all, part)
	}
	return all
}

// jsonText writes a list the way a parameter takes it.
func jsonText[T any](list []T) string {
	if list == nil {
		return "[]"
	}
	raw, err := json.Marshal(list)
	if err != nil {
		panic(err) // lists of strings
	}
	return string(raw)
}
