// Command release makes what a version is published as, publishes it, and writes single-file installs.
//
//	go run ./ci/release bundle --digests dist/images templates/overlays/example
//	go run ./ci/release build --version 1.2.3
//	go run ./ci/release publish --registry ghcr.io/stepwright
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "release", Short: "Makes releases and publishes them", SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(bundleCommand(), buildCommand(), publishCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func bundleCommand() *cobra.Command {
	var out, digests string
	cmd := &cobra.Command{
		Use:   "bundle [kustomization…]",
		Short: "Write dist/workflow-plane.yaml and dist/control-plane.yaml",
		Long: "Builds kustomizations, by default templates/workflow-plane and templates/control-plane, and writes " +
			"their objects to one file for\n" +
			"each plane. Nothing but kubectl apply -f is needed to install it.",
		RunE: func(cmd *cobra.Command, dirs []string) error {
			if len(dirs) == 0 {
				dirs = []string{"templates/workflow-plane", "templates/control-plane"}
			}
			files, err := bundle(dirs, digests)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				return err
			}
			for _, name := range slices.Sorted(maps.Keys(files)) {
				file := filepath.Join(out, name)
				if err := os.WriteFile(file, files[name], 0o644); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), "Wrote", file)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "dist", "where the files go")
	cmd.Flags().StringVar(
		&digests, "digests", "",
		"folder with an OCI image layout <step> for each image whose digest is to be in the files, as make images "+
			"leaves it",
	)
	return cmd
}

func buildCommand() *cobra.Command {
	r := release{}
	var architectures []string
	var systems []string
	cmd := &cobra.Command{
		Use:   "build --version VERSION",
		Short: "Make a release of the checkout in a folder",
		Long: `Makes a release of the files of a checkout, as this version whatever templates/VERSION says, in a folder:

  images/<name>                 images with what they are made of and where they come from beside them, OCI layouts;
                                images.txt has their references with digests
  <program>_<system>_<arch>     programs: stepwright and generate-workload-cr for every system, steps for linux
  *.spdx.json                   what each program and each image is made of
  workflow-plane.yaml, control-plane.yaml
                                single-file installs, with the digests of the images
  stepwright-<version>.tgz      the Helm chart; images/charts/stepwright has it as a layout
  templates.tar.gz              templates, for overlays of one's own
  SHA256SUMS                    checksums of all these files
  external-ci.tar.gz            pipelines of other CIs and the action for GitHub, with the checksum of SHA256SUMS
  provenance.intoto.json        of which commit all is made, and how
  RELEASE_NOTES.md              what CHANGELOG.md says of the version

The same files give the same release, byte by byte, by the same Go and Debian packages.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.say = func(format string, args ...any) { fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...) }
			r.stderr = cmd.ErrOrStderr()
			r.architectures, r.systems = architectures, systems
			return r.build(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&r.version, "version", "", "version, such as 1.2.3 or 1.2.3-rc.1")
	cmd.Flags().StringVar(&r.source, "source", ".", "the project's checkout")
	cmd.Flags().StringVar(
		&r.out, "out", filepath.Join("dist", "release"), "where the release goes; what is there is removed",
	)
	cmd.Flags().StringSliceVar(&architectures, "arch", []string{"amd64", "arm64"}, "architectures")
	cmd.Flags().StringSliceVar(&systems, "os", []string{"linux", "darwin", "windows"}, "operating systems of programs")
	cmd.MarkFlagRequired("version")
	return cmd
}

func publishCommand() *cobra.Command {
	var p publication
	var folder string
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Publish a release: its images and its chart to a registry, its files to a folder",
		Long: `Publishes a release. With --signing-key its images are signed, with what is said beside them, and so is
the provenance of its files, as provenance.sigstore.json: cosign verifies all by the public key, and stepwright
the images. One key gives the same signatures each time. Without a key nothing is signed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p.stderr = cmd.ErrOrStderr()
			if p.key == "" {
				fmt.Fprintln(p.stderr, "Nothing is signed: there is no --signing-key")
			}
			if p.registry != "" {
				references, err := p.push(cmd.Context())
				for _, reference := range references {
					fmt.Fprintln(cmd.OutOrStdout(), reference)
				}
				if err != nil {
					return err
				}
			}
			if folder != "" {
				return p.copyFiles(folder)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&p.from, "release", filepath.Join("dist", "release"), "folder that build made")
	cmd.Flags().StringVar(
		&p.registry, "registry", "",
		"host, with optional port and path, such as ghcr.io/stepwright: images go to <registry>/<name>, the chart to "+
			"<registry>/charts/stepwright; with the credentials of docker login",
	)
	cmd.Flags().StringVar(&folder, "folder", "", "where the files go, each version into a folder v<version>")
	cmd.Flags().BoolVar(&p.plainHTTP, "plain-http", false, "speak plain HTTP with a registry on this machine")
	cmd.Flags().StringVar(
		&p.key, "signing-key", os.Getenv("SIGNING_KEY"),
		"PEM file of the private key to sign with, as for publish-image; $SIGNING_KEY",
	)
	cmd.Flags().StringVar(
		&p.password, "signing-password", os.Getenv("SIGNING_PASSWORD"),
		"file with the password of the key; $SIGNING_PASSWORD",
	)
	cmd.MarkFlagsOneRequired("registry", "folder")
	return cmd
}
