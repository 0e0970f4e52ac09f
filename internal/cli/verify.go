package cli

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/internal/registry"
	"github.com/stepwright/stepwright/internal/trust"
	"github.com/stepwright/stepwright/internal/verification"
)

// verifyOptions are the flags of stepwright verify.
type verifyOptions struct {
	key, trustedRoot string
	identity         verification.Identity
	expected         verification.Expected
	dockerConfig     string
	caBundle         string
	insecure         []string
	output           string
}

func verifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify [flags] IMAGE",
		Short: "Verify who signed an image, and what it was built of",
		Long: `Verify who signed an image, and what it was built of.

IMAGE is a reference by tag or digest. Its signature must be by the public key of --key, or by a
certificate for an identity that an issuer vouches for: --certificate-identity and
--certificate-oidc-issuer, or a regular expression for each of them, by the authorities of
--trusted-root. Nobody but the registry is asked: a trusted root is a file.

The runs that published the image are shown, and each platform's image with the signatures,
provenances and SBOMs that the same signer signed. With --builder-id, --repository or --commit each
must have a provenance that tells just that. With --run, --namespace or --branch one signed statement
of a run must tell all of them; where there is none, the provenances may tell the run.

The exit code is 0 for an image that is verified, and 36 (VerificationFailed) for one that is not.
The log of transparency is not looked at for a key; for an identity, where the trusted root has one.`,
		Example: `  stepwright verify --key cosign.pub registry.example.com/acme_shop_cart:v1-1a2b3c4d
  stepwright verify --key cosign.pub --repository https://git.example.com/acme/shop --commit 1a2b3c4d IMAGE@sha256:...
  stepwright verify --key cosign.pub --namespace acme --branch main IMAGE
  stepwright verify --trusted-root trusted_root.json --certificate-oidc-issuer https://kubernetes.default.svc \
      --certificate-identity https://kubernetes.io/namespaces/workflows-acme/serviceaccounts/workflow IMAGE -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.key, "key", "", "PEM file of the public key that images are signed with")
	flags.StringVar(&o.trustedRoot, "trusted-root", "", "trusted_root.json of the sigstore that signs by identity")
	flags.StringVar(&o.identity.Subject, "certificate-identity", "", "identity that signs")
	flags.StringVar(&o.identity.SubjectRegexp, "certificate-identity-regexp", "", "regular expression of it")
	flags.StringVar(&o.identity.Issuer, "certificate-oidc-issuer", "", "URL of the issuer of the identity's token")
	flags.StringVar(&o.identity.IssuerRegexp, "certificate-oidc-issuer-regexp", "", "regular expression of it")
	flags.StringVar(&o.expected.Builder, "builder-id", "", "id of the builder that the provenance must tell")
	flags.StringVar(&o.expected.Repository, "repository", "", "URL of the repository that the provenance must tell")
	flags.StringVar(&o.expected.Commit, "commit", "", "commit that the provenance must tell, or its first 7 characters")
	flags.StringVar(&o.expected.Run, "run", "", "run that published the image, or that the provenance must tell")
	flags.StringVar(&o.expected.Namespace, "namespace", "", "namespace of the run that published the image")
	flags.StringVar(&o.expected.Branch, "branch", "", "branch or tag that the run which published the image was of")
	flags.StringVar(&o.dockerConfig, "docker-config", "", "Docker configuration file with the registry's credentials")
	flags.StringVar(&o.caBundle, "ca-bundle", "", "PEM file of certificate authorities to trust besides the system's")
	flags.StringSliceVar(&o.insecure, "insecure-registry", nil, "registry that is spoken to over plain HTTP")
	flags.StringVarP(&o.output, "output", "o", "", "json, or empty for a table")
	return cmd
}

// check finds the faults of the flags.
func (o *verifyOptions) check() error {
	var faults []string
	byIdentity := o.identity != verification.Identity{}
	switch {
	case o.key != "" && (byIdentity || o.trustedRoot != ""):
		faults = append(faults, "--key: an image is verified by a key or by an identity, and not by both")
	case o.key != "":
	case o.trustedRoot == "":
		faults = append(faults, "one of --key and --trusted-root says whom to trust")
	case o.identity.Subject == "" && o.identity.SubjectRegexp == "",
		o.identity.Issuer == "" && o.identity.IssuerRegexp == "":
		faults = append(faults, "--trusted-root: a signature counts only by --certificate-identity and "+
			"--certificate-oidc-issuer, or their regular expressions")
	}
	if o.expected.Commit != "" && len(o.expected.Commit) < verification.MinCommit {
		faults = append(faults, fmt.Sprintf("--commit: it has fewer than %d characters", verification.MinCommit))
	}
	if o.output != "" && o.output != "json" {
		faults = append(faults, fmt.Sprintf("--output: %q is not json", o.output))
	}
	if len(faults) > 0 {
		return outcome.Misuse(faults...)
	}
	return nil
}

func (o *verifyOptions) run(cmd *cobra.Command, image string) error {
	if err := o.check(); err != nil {
		return err
	}
	whom, err := o.trust()
	if err != nil {
		return err
	}
	transport, err := trust.Transport(o.caBundle)
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	credentials, err := registry.LoadOwnCredentials(o.dockerConfig, new(redact.Secrets))
	if err != nil {
		return err
	}
	source := registry.Source{Insecure: o.insecure, Credentials: credentials, Transport: transport}
	var report verification.Report
	retry := outcome.Retry{Attempts: 3, Base: time.Second, Max: 5 * time.Second}
	err = retry.Do(cmd.Context(), func(ctx context.Context) (err error) {
		report, err = verification.Verify(ctx, source, image, whom, o.expected)
		return err
	})
	if report.Image == "" {
		return err
	}
	var printed error
	if o.output == "json" {
		printed = printJSON(cmd.OutOrStdout(), struct {
			Verified bool `json:"verified"`
			verification.Report
		}{err == nil, report})
	} else {
		printed = printVerified(cmd.OutOrStdout(), report)
	}
	if err == nil {
		err = printed
	}
	return err
}

// trust reads whom to trust.
func (o *verifyOptions) trust() (*verification.Trust, error) {
	if o.key == "" {
		content, err := os.ReadFile(o.trustedRoot)
		if err != nil {
			return nil, unreadable(err)
		}
		whom, err := verification.ByIdentity(content, o.identity)
		if err != nil {
			return nil, outcome.Misuse(fmt.Sprintf("--trusted-root, --certificate-…: %v", err))
		}
		return whom, nil
	}
	content, err := os.ReadFile(o.key)
	if err != nil {
		return nil, unreadable(err)
	}
	var public crypto.PublicKey
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, outcome.Misuse("--key: " + o.key + " is no public key in PEM")
	}
	if public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, outcome.Misuse(fmt.Sprintf("--key: %s: %v", o.key, err))
	}
	whom, err := verification.ByKey(public)
	if err != nil {
		return nil, outcome.Misuse(fmt.Sprintf("--key: %s: %v", o.key, err))
	}
	return whom, nil
}

// moment is a time in a table.
func moment(at *time.Time) string {
	if at == nil {
		return cell("")
	}
	return at.UTC().Format(time.RFC3339)
}

// printVerified prints what is known of an image as tables.
func printVerified(out io.Writer, r verification.Report) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(table, "IMAGE\t%s\n", cell(r.Image))
	signed := func(what string, by verification.Signer) {
		if by.Key != "" {
			fmt.Fprintf(table, "%s\tkey %s\n", what, cell(by.Key))
		} else {
			fmt.Fprintf(table, "%s\t%s, by %s\n", what, cell(by.Identity), cell(by.Issuer))
		}
		if by.Time != nil {
			fmt.Fprintf(table, "  AT\t%s\n", by.Time.Format(time.RFC3339))
		}
	}
	for _, by := range r.Signatures {
		signed("SIGNED BY", by)
	}
	if len(r.Signatures) == 0 {
		fmt.Fprintln(table, "SIGNED BY\tnobody who is trusted")
	}
	for _, run := range r.Runs {
		fmt.Fprintf(table, "RUN\t%s\n  NAMESPACE\t%s\n  BRANCH\t%s\n  COMMIT\t%s\n", cell(run.Name),
			cell(run.Namespace), cell(run.Branch), cell(run.Commit))
		fmt.Fprintf(table, "  STARTED\t%s\n  FINISHED\t%s\n", moment(run.StartedOn), moment(run.FinishedOn))
	}
	for _, p := range r.Platforms {
		fmt.Fprintf(table, "PLATFORM\t%s\t\n", cell(p.Platform))
		fmt.Fprintf(table, "  DIGEST\t%s\n", p.Digest)
		for _, by := range p.Signatures {
			signed("  SIGNED BY", by)
		}
		for _, provenance := range p.Provenances {
			fmt.Fprintf(table, "  BUILDER\t%s\n  REPOSITORY\t%s\n  COMMIT\t%s\n  RUN\t%s\n", cell(provenance.Builder),
				cell(provenance.Repository), cell(provenance.Commit), cell(provenance.Run))
		}
		if len(p.Provenances) == 0 {
			fmt.Fprintln(table, "  PROVENANCE\tnone that is signed")
		}
		fmt.Fprintf(table, "  SBOMS\t%d\n", p.SBOMs)
	}
	return table.Flush()
}
