package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/plane"
	"github.com/stepwright/stepwright/ci/cluster/secretstore"
	"github.com/stepwright/stepwright/ci/cluster/volumes"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// initCommand is the first process of the namespaces.
func initCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use: "init", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return state.Init() },
	}
}

// nodeCommand starts the cluster inside the namespaces and keeps its processes. It says on descriptor 3 how it gets on.
func nodeCommand(state *node.State) *cobra.Command {
	return &cobra.Command{
		Use: "node", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := os.NewFile(3, "progress")
			log := newProgress(os.Stderr)
			s := &node.Supervisor{State: *state, Say: func(format string, args ...any) {
				log.say(format, args...)
				fmt.Fprintf(out, format+"\n", args...) // nobody may listen any more
			}}
			config, err := state.ReadConfig()
			if err != nil {
				return err
			}
			state.Adopt(config)
			if err := state.Furnish(); err != nil {
				return err
			}
			if err := s.Serve(); err != nil {
				return err
			}
			if err := plane.New(s, config.Programs).Start(cmd.Context()); err != nil {
				return err
			}
			fmt.Fprintln(out, node.Ready)
			out.Close()
			<-cmd.Context().Done()
			return nil
		},
	}
}

// serveCommand is one of the processes that the node starts.
func serveCommand(state *node.State) *cobra.Command {
	services := map[string]func(context.Context, *node.State) error{
		"registry": serveRegistry, "idp": serveIssuer, "volumes": serveVolumes, "secret-store": serveSecrets,
	}
	return &cobra.Command{
		Use: "serve SERVICE", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			serve := services[args[0]]
			if serve == nil {
				return fmt.Errorf("there is no service %s", args[0])
			}
			return serve(cmd.Context(), state)
		},
	}
}

func serveRegistry(ctx context.Context, state *node.State) error {
	registry, err := devregistry.New(devregistry.Options{Dir: state.Path("registry")})
	if err != nil {
		return err
	}
	if _, err := registry.Start(":5000"); err != nil {
		return err
	}
	<-ctx.Done()
	return registry.Close()
}

func serveIssuer(ctx context.Context, _ *node.State) error {
	provider, err := devidp.New(devidp.Options{Issuer: plane.IssuerURL, Clients: plane.Clients})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":8091")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: provider, ReadHeaderTimeout: 30 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serveVolumes(ctx context.Context, state *node.State) error {
	config, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig("admin"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return volumes.Run(ctx, client, state.Path("volumes"))
}

func serveSecrets(ctx context.Context, state *node.State) error {
	config, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig("admin"))
	if err != nil {
		return err
	}
	return secretstore.Run(ctx, config, logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, nil)))
}
