// Package workload is the step generate-workload-cr: it makes a component's Workload of its descriptor and image,
// publishes it through the OpenChoreo API, and leaves it in the annotations of the WorkflowRun.
package workload

import (
	"context"
	"fmt"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
	"github.com/stepwright/stepwright/steps/internal/openchoreo"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// Parameters are the parameters in schemas/generate-workload-cr.schema.json.
type Parameters struct {
	step.Common
	secret.Awaited
	CheckOnly bool `json:"check-only"`

	Namespace         string   `json:"namespace-name"`
	Project           string   `json:"project-name"`
	Component         string   `json:"component-name"`
	Image             string   `json:"image"`
	ImageFile         string   `json:"image-file"`
	Descriptor        string   `json:"descriptor"`
	Revision          string   `json:"revision"`
	SignatureDigest   string   `json:"signature-digest"`
	SBOMDigests       []string `json:"sbom-digests"`
	Failures          string   `json:"failures"`
	SourceDigest      string   `json:"source-digest"`
	WorkloadName      string   `json:"workload-name"`
	Run               string   `json:"run-name"`
	AppPath           string   `json:"app-path"`
	TokenURL          string   `json:"oauth-token-url"`
	ClientID          string   `json:"oauth-client-id"`
	ClientSecret      string   `json:"oauth-client-secret"`
	ClientSecretFile  string   `json:"oauth-client-secret-file"`
	ClientAssertion   string   `json:"oauth-client-assertion"`
	AssertionFile     string   `json:"oauth-client-assertion-file"`
	AssertionAudience string   `json:"oauth-client-assertion-audience"`
	GitHubIDToken     string   `json:"github-id-token"`
	IDTokenURL        string   `json:"actions-id-token-request-url"`
	IDTokenSecret     string   `json:"actions-id-token-request-token"`
	ClientAuth        string   `json:"oauth-client-auth"`
	Scope             string   `json:"oauth-scope"`
	Audience          string   `json:"oauth-audience"`
	TokenFile         string   `json:"token-file"`
	APIServerURL      string   `json:"api-server-url"`
	InsecurePlainHTTP bool     `json:"insecure-plain-http"`
	Wait              bool     `json:"wait"`
	WaitTimeout       int      `json:"wait-timeout"` // in seconds
	DryRun            bool     `json:"dry-run"`
	Output            string   `json:"output"`
}

// The annotations of a WorkflowRun that tell what it made (docs/contract.md section 4).
const (
	payloadAnnotation    = "openchoreo.dev/workload"
	fromSourceAnnotation = "openchoreo.dev/workload-from-source"
)

// The API's limits in bytes (docs/contract.md section 4). It tells of the second only after the Workload is changed.
const (
	bodyLimit        = 1_500_000
	annotationsLimit = 262_144
)

// Run runs the step. Its results are the Workload's name, and whether it comes from a descriptor. With failures it only
// annotates the WorkflowRun, and has none.
func Run(ctx context.Context, in Parameters, env step.Environment) (step.Results, error) {
	if in.CheckOnly {
		client, err := in.client(ctx, env)
		if err != nil {
			return nil, err
		}
		return nil, in.probe(ctx, client, env)
	}
	p := &publication{Parameters: in, log: env.Log}
	if in.Failures == "" {
		image, err := in.image()
		if err != nil {
			return nil, err
		}
		p.Image = image
		if p.facts, err = p.Parameters.facts(); err != nil {
			return nil, err
		}
	}
	if !in.DryRun {
		client, err := in.client(ctx, env)
		if err != nil {
			return nil, err
		}
		p.api = client
	}
	if in.Failures != "" {
		return p.annotateFailure(ctx, env.Retry)
	}
	var err error
	p.manifest, err = p.Parameters.manifest()
	if err != nil {
		return nil, err
	}
	for _, w := range p.manifest.Warnings {
		env.Log.Warn(w)
	}
	if err := p.rename(p.manifest.Workload.Name); err != nil {
		return nil, err
	}
	if in.DryRun {
		if err := p.writeOutput(); err != nil {
			return nil, err
		}
		_, err := fmt.Fprintf(env.Stdout, "%s\n", quote.JSON(p.payload))
		return p.results(), err
	}
	if err := p.register(ctx, env.Retry); err != nil {
		return p.published(), err
	}
	if in.Wait {
		if err := p.wait(ctx, env.Retry); err != nil {
			return p.results(), err
		}
	}
	if p.winner != nil {
		env.Say(fmt.Sprintf("%s is newer than %s and wins: Workload %s is that run's", p.winner, p.Run, p.name))
	}
	return p.results(), nil
}

// client is a client of the API. It waits for the client's secret, if somebody is to wait for it.
func (in Parameters) client(ctx context.Context, env step.Environment) (*openchoreo.Client, error) {
	settings := in.settings()
	client, err := openchoreo.New(settings, env.Secrets)
	if err != nil {
		return nil, err
	}
	// The client tells the faults of a file that nobody waits for when it needs it.
	if file := settings.SecretFile(); file != "" && in.SecretTimeout > 0 {
		err = in.Await(ctx, env.Log, outcome.Unauthorized, file)
	}
	return client, err
}

// settings say where the API is and who asks.
func (in Parameters) settings() openchoreo.Settings {
	return openchoreo.Settings{
		APIServerURL: in.APIServerURL, TokenURL: in.TokenURL,
		ClientID: in.ClientID, ClientSecret: in.ClientSecret, ClientSecretFile: in.ClientSecretFile,
		ClientAuth: in.ClientAuth,
		Scope:      in.Scope, Audience: in.Audience, TokenFile: in.TokenFile,
		Assertion: openchoreo.Assertion{
			Text: in.ClientAssertion, File: in.AssertionFile, Audience: in.AssertionAudience,
			GitHub: in.GitHubIDToken, RequestURL: in.IDTokenURL, RequestSecret: in.IDTokenSecret,
		},
		CABundle: in.CABundle, InsecurePlainHTTP: in.InsecurePlainHTTP,
	}
}

// fits fails if an object is larger than the API takes.
func fits(what string, object openchoreo.Object) error {
	raw, err := object.Encode()
	if err == nil && len(raw) > bodyLimit {
		err = tooLarge(what, len(raw), bodyLimit)
	}
	return err
}

func tooLarge(what string, size, limit int) error {
	return outcome.Errorf(
		outcome.DescriptorInvalid, "%s would be %d bytes; OpenChoreo takes at most %d", what, size, limit,
	).
		WithHint("Make the schema files and files that workload.yaml names smaller.")
}
