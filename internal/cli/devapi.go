package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/internal/devserver/devapi"
	"github.com/stepwright/stepwright/internal/outcome"
)

func devAPICommand() *cobra.Command {
	var dir, listen, clientID, secretFile string
	cmd := &cobra.Command{
		Use:   "dev-api [flags] [FILE...]",
		Short: "Serve an OpenChoreo API for development, its objects kept as YAML files",
		Long: `Serve an OpenChoreo API for development, its objects kept as YAML files.

It has the part of the API that a pipeline's last step uses, with the answers of the real one:
workloads, workflowruns and components of a namespace, and a token endpoint for client_credentials.
The objects in FILEs are applied first. It listens on loopback only.`,
		Example: `  stepwright dev-api --dir objects component.yaml workflowrun.yaml
  generate-workload-cr --api-server-url=http://127.0.0.1:8090 --oauth-token-url=http://127.0.0.1:8090/oauth2/token \
      --oauth-client-id=stepwright-local --oauth-client-secret-file=objects/client-secret …`,
		RunE: func(cmd *cobra.Command, files []string) error {
			if secretFile == "" {
				secretFile = filepath.Join(dir, "client-secret")
			}
			secret, err := clientSecret(secretFile)
			if err != nil {
				return unreadable(err)
			}
			server, err := devapi.New(devapi.Options{Dir: dir, ClientID: clientID, ClientSecret: secret,
				Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))})
			if err != nil {
				return unreadable(err)
			}
			return serveAPI(cmd.Context(), cmd.OutOrStdout(), server, listen, clientID, secretFile, files)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", filepath.Join(defaultState(), "api"), "folder of the objects")
	f.StringVar(&listen, "listen", "127.0.0.1:8090", "address to listen on")
	f.StringVar(&clientID, "oauth-client-id", "stepwright-local", "the one client that gets tokens")
	f.StringVar(
		&secretFile, "oauth-client-secret-file", "",
		"file with the client's secret, made when absent (default: client-secret in --dir)",
	)
	return cmd
}

// clientSecret reads a secret, or makes one.
func clientSecret(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		secret := rand.Text()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		return secret, os.WriteFile(path, []byte(secret+"\n"), 0o600)
	}
	return strings.TrimSpace(string(raw)), err
}

func serveAPI(
	ctx context.Context, out io.Writer, server *devapi.Server, listen, clientID, secretFile string, files []string,
) error {
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return unreadable(err)
		}
		if err := server.Apply(raw); err != nil {
			return outcome.Errorf(outcome.InvalidParameters, "%s: %w", file, err).WithHint(
				"Correct the object: stepwright validate names every fault with its line.",
			)
		}
	}
	base, closer, err := server.Start(listen)
	if err != nil {
		return outcome.Errorf(outcome.UsageError, "--listen: %w", err).WithHint(
			"Give an address of loopback at which nothing listens yet; the port 0 takes any that is free.",
		)
	}
	defer closer.Close()
	fmt.Fprintf(
		out, "API     %s\ntokens  %s%s\nclient  %s, its secret in %s\n", base, base, devapi.TokenPath, clientID,
		secretFile,
	)
	<-ctx.Done()
	return nil
}
