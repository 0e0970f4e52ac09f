package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/testimage/baseimages"
)

// local is how the cluster's registry is called by processes of the node.
const local = "localhost:5000"

// loadImagesCommand runs itself inside.
func loadImagesCommand(provider Provider, p *progress) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "load-images",
		Short: "Put the steps' images and the base images into the cluster's registry",
		Long: `Publishes every image that make images has made as ` + node.Registry +
			`/stepwright/<step>:<version>, where the node finds
ghcr.io/stepwright/<step>:<version> too, and the base images that this machine makes of Debian packages
(docker.io/library/busybox:1 and others) as
` + node.Registry + `/library/busybox:1 and so on. What is there already is not sent again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			kept, err := baseimages.DefaultDir()
			if err != nil {
				return err
			}
			store := baseimages.Store{Dir: kept, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
			if !inside() {
				// Debian's archive is only reachable from here, the registry only from in there.
				if err := store.Ensure(cmd.Context()); err != nil {
					return err
				}
				return provider.Exec(cmd.Context(), "cluster", "load-images", "--dir", dir)
			}
			if err := loadSteps(cmd.Context(), p, dir); err != nil {
				return err
			}
			if err := store.Push(cmd.Context(), local); err != nil {
				return err
			}
			p.say("The base images are there: %v", baseimages.Names())
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", filepath.Join("dist", "images"), "where make images puts the steps' images")
	return cmd
}

// loadSteps pushes every layout in a folder.
func loadSteps(ctx context.Context, p *progress, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("no images of the steps (make images makes them): %w", err)
	}
	for _, entry := range entries {
		started := time.Now()
		root, err := layout.ImageIndexFromPath(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		manifest, err := root.IndexManifest()
		if err != nil {
			return err
		}
		for _, descriptor := range manifest.Manifests {
			path := "/stepwright/" + entry.Name() + ":" + descriptor.Annotations["org.opencontainers.image.ref.name"]
			tag, err := name.NewTag(local+path, name.StrictValidation, name.Insecure)
			if err != nil {
				return err
			}
			index, err := root.ImageIndex(descriptor.Digest)
			if err != nil {
				return err
			}
			if err := remote.WriteIndex(tag, index, remote.WithContext(ctx)); err != nil {
				return fmt.Errorf("push %s: %w", tag, err)
			}
			p.say("%s@%s, took %s", node.Registry+
				path, descriptor.Digest, time.Since(started).Round(10*time.Millisecond))
		}
	}
	return nil
}
