package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/ci/cluster/plane"
	"github.com/stepwright/stepwright/ci/cluster/volumes"
	"github.com/stepwright/stepwright/internal/devserver/devidp"
	"github.com/stepwright/stepwright/internal/devserver/devregistry"
)

// serveCommand is one of the processes that the node starts.
func serveCommand(state *node.State) *cobra.Command {
	services := map[string]func(context.Context, *node.State) error{
		"registry": serveRegistry, "idp": serveIssuer, "volumes": serveVolumes, "api": serveAPI,
		"commands": serveCommands,
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

func serveIssuer(ctx context.Context, state *node.State) error {
	accounts, err := serviceAccounts(ctx, state)
	if err != nil {
		return err
	}
	provider, err := devidp.New(devidp.Options{
		Issuer: plane.IssuerURL, Clients: plane.Clients, Trusted: []devidp.Trusted{accounts},
	})
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

// serviceAccounts lets service accounts of the cluster be clients of the identity provider, by the keys that the API
// server publishes.
func serviceAccounts(ctx context.Context, state *node.State) (trusted devidp.Trusted, err error) {
	config, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig("admin"))
	if err != nil {
		return trusted, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return trusted, err
	}
	document := func(ctx context.Context, path string, into any) error {
		raw, err := client.RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(raw, into)
	}
	var issuer struct {
		Issuer string `json:"issuer"`
	}
	err = document(ctx, "/.well-known/openid-configuration", &issuer)
	return devidp.Trusted{
		Issuer: issuer.Issuer, Subjects: plane.Subjects,
		Keys: func(ctx context.Context) (keys jose.JSONWebKeySet, err error) {
			return keys, document(ctx, "/openid/v1/jwks", &keys)
		},
	}, err
}

// serveAPI has OpenChoreo's API, which is a Service, answer at the node's address.
func serveAPI(ctx context.Context, _ *node.State) error {
	return forward(ctx, ":8090", "openchoreo-api.openchoreo-control-plane.svc.cluster.local:8090")
}

// forward connects callers of an address with another. While nobody listens there, nobody does here: the first caller
// that finds it out has its connection closed, and those after it are refused, as by a process that is not there.
func forward(ctx context.Context, address, to string) error {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	for ctx.Err() == nil {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { listener.Close() })
		for {
			caller, err := listener.Accept()
			if err != nil {
				break // it is closed, by what follows or at the end
			}
			go func() {
				defer caller.Close()
				called, err := dialer.DialContext(ctx, "tcp", to)
				if err != nil {
					listener.Close()
					return
				}
				defer called.Close()
				go func() {
					io.Copy(called, caller)
					called.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(caller, called)
			}()
		}
		stop()
		for ctx.Err() == nil {
			if called, err := dialer.DialContext(ctx, "tcp", to); err == nil {
				called.Close()
				break
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return context.Cause(ctx)
}

// serveCommands is the first process of a container that commands run in.
func serveCommands(ctx context.Context, _ *node.State) error {
	reapOrphans()
	<-ctx.Done()
	return nil
}

func serveVolumes(ctx context.Context, state *node.State) error {
	config, err := clientcmd.BuildConfigFromFlags("", state.Kubeconfig("admin"))
	if err != nil {
		return err
	}
	config.QPS = -1 // the server limits itself; with a client's default a claim takes a second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return volumes.Run(ctx, client, state.Path("volumes"))
}
