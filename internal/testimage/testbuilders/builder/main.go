// Builder makes a builder image of a builder.toml with pack's own code, and pushes it into a registry.
//
//	builder --mirror HOST:PORT builder.toml NAME
//
// All images that the file names, and NAME, are taken from and put into the mirror, whatever registry they are in:
// nothing is asked of another one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	pubbuilder "github.com/buildpacks/pack/builder"
	"github.com/buildpacks/pack/pkg/client"
	"github.com/buildpacks/pack/pkg/image"
	"github.com/buildpacks/pack/pkg/logging"
	"github.com/google/go-containerregistry/pkg/name"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "builder:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("builder", flag.ContinueOnError)
	mirror := flags.String(
		"mirror", "", "host and port of a registry that has the images, by the paths they have in their own",
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *mirror == "" || flags.NArg() != 2 {
		return errors.New("usage: builder --mirror HOST:PORT builder.toml NAME")
	}
	file, target := flags.Arg(0), flags.Arg(1)

	config, warnings, err := pubbuilder.ReadConfig(file)
	if err != nil {
		return err
	}
	if len(warnings) > 0 {
		return fmt.Errorf("%s: %s", file, strings.Join(warnings, "; "))
	}
	env, _, err := pubbuilder.ParseBuildConfigEnv(config.Build.Env, file)
	if err != nil {
		return err
	}
	if config.Build.Image, err = mirrored(config.Build.Image, *mirror); err != nil {
		return err
	}
	config.Stack.BuildImage = config.Build.Image // ReadConfig makes them the same, and pack insists on it
	registries := map[string]string{}
	for _, run := range config.Run.Images {
		ref, err := name.ParseReference(run.Image)
		if err != nil {
			return err
		}
		registries[ref.Context().RegistryStr()] = *mirror
	}
	if target, err = mirrored(target, *mirror); err != nil {
		return err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return err
	}
	// pack keeps what it unpacks in $PACK_HOME.
	pack, err := client.NewClient(
		client.WithLogger(logging.NewSimpleLogger(os.Stderr)), client.WithRegistryMirrors(registries),
	)
	if err != nil {
		return err
	}
	return pack.CreateBuilder(ctx, client.CreateBuilderOptions{
		BuilderName:     target,
		Config:          config,
		BuildConfigEnv:  env,
		RelativeBaseDir: dir,
		Publish:         true,
		PullPolicy:      image.PullAlways,
	})
}

// mirrored is where the mirror has an image.
func mirrored(ref, mirror string) (string, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return "", err
	}
	separator := ":"
	if _, ok := parsed.(name.Digest); ok {
		separator = "@"
	}
	return mirror + "/" + parsed.Context().RepositoryStr() + separator + parsed.Identifier(), nil
}
