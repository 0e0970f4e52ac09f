// Command images makes the images of the steps, without a container daemon, and publishes them.
//
// An image holds the step as a static binary, the certificate authorities of the web, a user and /tmp: no shell, no
// package, no library. containerfile-build has a runc besides. Two builds of one commit are equal to the last bit, by
// the same Go and the same versions of the Debian packages ca-certificates and, for runc, gcc, libc6-dev and
// libseccomp-dev.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/images/layouts"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "images",
		Short:         "Makes the images of the steps, and publishes them",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(buildCommand(), pushCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

func buildCommand() *cobra.Command {
	var from, dir, version string
	var wanted []string
	cmd := &cobra.Command{
		Use:   "build [step…]",
		Short: "Build images, each an OCI image layout <dir>/<step>",
		Long: "Builds the images of all steps, or of those named, each an OCI image layout <dir>/<step>, and prints " +
			"digests and compressed sizes. The image sbom-scanner is built when it is named.\n" +
			"An image whose parts cannot be built for an architecture goes without it.",
		RunE: func(cmd *cobra.Command, steps []string) error {
			chosen, err := imagesOf(steps)
			if err != nil {
				return err
			}
			s, err := sourceIn(cmd.Context(), from, version)
			if err != nil {
				return err
			}
			results, err := build(cmd.Context(), s, chosen, wanted, dir)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Images of version %s, revision %s, in %s\n", s.version, s.revision, dir)
			for _, r := range results {
				var sizes []string
				for _, architecture := range wanted {
					if size, ok := r.sizes[architecture]; ok {
						sizes = append(sizes, fmt.Sprintf("%s %.1f MB", architecture, float64(size)/megabyte))
					}
				}
				for _, missing := range r.without {
					sizes = append(sizes, fmt.Sprintf("not %s: %v", missing.architecture, missing))
				}
				fmt.Fprintf(cmd.OutOrStdout(), "  %-21s %s  %s\n", r.step, r.digest, strings.Join(sizes, ", "))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "source", ".", "the module's root, in a Git repository")
	cmd.Flags().StringVar(&dir, "dir", filepath.Join("dist", "images"), "where the layouts go")
	cmd.Flags().StringVar(&version, "version", "", "version, and tag, of the images (default what git describe says)")
	cmd.Flags().StringSliceVar(&wanted, "arch", architectures, "architectures")
	return cmd
}

func pushCommand() *cobra.Command {
	var dir, registry string
	var plainHTTP bool
	cmd := &cobra.Command{
		Use:   "push [step…]",
		Short: "Publish images that build has made as <registry>/<step>:<version>",
		Long: "Publishes the images of all steps, or of those named, as <registry>/<step>:<version>, with the " +
			"credentials of docker login, and prints their references.",
		RunE: func(cmd *cobra.Command, steps []string) error {
			chosen, err := imagesOf(steps)
			if err != nil {
				return err
			}
			for _, img := range chosen {
				reference, err := layouts.Push(
					cmd.Context(), filepath.Join(dir, img.step), registry+"/"+img.step, plainHTTP,
				)
				if err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), reference)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "dir", filepath.Join("dist", "images"), "where the layouts are")
	cmd.Flags().StringVar(
		&registry, "registry", "", "host, with optional port and path, such as ghcr.io/acme/stepwright",
	)
	cmd.Flags().BoolVar(&plainHTTP, "plain-http", false, "speak plain HTTP with a registry on this machine")
	cmd.MarkFlagRequired("registry")
	return cmd
}
