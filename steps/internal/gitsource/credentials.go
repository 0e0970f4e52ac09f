package gitsource

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/redact"
	"github.com/stepwright/stepwright/steps/internal/secret"
	"github.com/stepwright/stepwright/steps/internal/step"
)

// credentials are what the Git secret holds (docs/contract.md sections 1 and 5). The zero value is a public
// repository's.
type credentials struct {
	username string
	password string

	key        ssh.Signer
	keyID      string
	knownHosts []byte // the secret's own known_hosts

	hosts hostList // that the secret names; nil where it has no word on them
}

// hostsKey is the secret's key with the hosts that it is for. The ClusterWorkflows write it from the annotation
// stepwright.dev/git-hosts of the SecretReference.
const hostsKey = "git-hosts"

func (c credentials) empty() bool { return c.key == nil && c.password == "" }

// waitForCredentials reads the secret, and waits for one that is required.
func waitForCredentials(ctx context.Context, in Parameters, env step.Environment) (c credentials, err error) {
	limit := time.Duration(in.GitSecretTimeout) * time.Second
	there, err := secret.Await(ctx, env.Log, "Git secret", in.GitSecretDir, limit, func() (bool, error) {
		c, err = readCredentials(in.GitSecretDir, env.Secrets)
		return !c.empty() || !in.GitSecretRequired, err
	})
	if err == nil && !there {
		return c, outcome.Errorf(
			outcome.AuthenticationFailed, "the Git secret did not appear in %s within %d s", in.GitSecretDir,
			in.GitSecretTimeout,
		).
			WithHint("Check that repository.secretRef names a SecretReference whose secret exists.")
	}
	return c, err
}

// readCredentials reads the secret as it is now. A directory that is absent or empty gives none.
func readCredentials(dir string, secrets *redact.Secrets) (credentials, error) {
	var c credentials
	values, err := secret.ReadDir(dir)
	if err != nil {
		return c, outcome.Errorf(outcome.AuthenticationFailed, "cannot read the Git secret: %w", err)
	}
	if len(values) == 0 {
		return c, nil
	}
	c.username = strings.TrimSpace(string(values["username"]))
	c.password = strings.TrimRight(string(values["password"]), "\r\n")
	c.keyID = strings.TrimSpace(string(values["ssh-key-id"]))
	secrets.Add(c.password)
	if raw := bytes.TrimSpace(values["ssh-privatekey"]); len(raw) > 0 {
		secrets.Add(string(raw))
		if c.key, err = parseKey(raw); err != nil {
			return c, err
		}
		c.knownHosts = values["known_hosts"]
	}
	if named, ok := values[hostsKey]; ok {
		if c.hosts, err = parseHosts(string(named)); err == nil && slices.Contains(c.hosts, everyHost) {
			err = errors.New("* names no host; that is for the setting git-secret-hosts")
		}
		if err != nil {
			return c, outcome.Errorf(outcome.AuthenticationFailed, "%s of the Git secret: %w", hostsKey, err).
				WithHint("It is a list such as git.example.com, git.example.com:8443.")
		}
	}
	if c.empty() {
		return c, outcome.Errorf(
			outcome.AuthenticationFailed, "the Git secret in %s holds neither ssh-privatekey nor password", dir,
		).
			WithHint("The secret needs the key ssh-privatekey, or the keys username and password.")
	}
	return c, nil
}

// parseKey reads a private key that may have Windows line ends or lack the last one. What comes before it, such as the
// parameters that openssl puts before an elliptic curve's key, does not count.
func parseKey(raw []byte) (ssh.Signer, error) {
	raw = append(bytes.ReplaceAll(raw, []byte("\r"), nil), '\n')
	for rest := raw; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			raw = pem.EncodeToMemory(block)
			break
		}
	}
	key, err := ssh.ParsePrivateKey(raw)
	if _, encrypted := errors.AsType[*ssh.PassphraseMissingError](err); encrypted {
		return nil, outcome.Errorf(
			outcome.AuthenticationFailed, "ssh-privatekey in the Git secret is protected by a passphrase",
		).
			WithHint("Use a key without a passphrase, such as a deploy key made for this repository.")
	}
	if err != nil {
		return nil, outcome.Errorf(
			outcome.AuthenticationFailed,
			"ssh-privatekey in the Git secret is not a private key in PEM or OpenSSH form: %w", err,
		)
	}
	return key, nil
}
