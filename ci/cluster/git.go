package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stepwright/stepwright/ci/cluster/node"
	"github.com/stepwright/stepwright/internal/devserver/devgit"
)

// gitPort is where with-git serves.
const gitPort = "8092"

// withGitCommand runs itself inside.
func withGitCommand(provider Provider) *cobra.Command {
	return &cobra.Command{
		Use:   "with-git FOLDER -- COMMAND [ARGUMENT…]",
		Short: "Run a command inside the cluster, while a folder is a Git repository there",
		Long: `Runs a command inside the cluster, as exec does. Until it ends, the folder's files are the one commit
of the branch main of http://git.` + node.Domain + `:` + gitPort +
			`/<name of the folder>.git, for pods, too. In the command's arguments {}
stands for that URL.`,
		Example: "  cluster with-git examples/greeting-service -- bin/stepwright run --cluster \\\n" +
			"      --set repository.url={} examples/greeting-service",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !inside() {
				itself := []string{"cluster", "with-git", args[0], "--"}
				return provider.Exec(cmd.Context(), append(itself, args[1:]...)...)
			}
			return withGit(cmd.Context(), ":"+gitPort, args[0], args[1:])
		},
	}
}

// withGit serves a folder at an address, whose port is gitPort, until a command has ended.
func withGit(ctx context.Context, address, folder string, command []string) (err error) {
	root, err := os.MkdirTemp("", "git-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	folder, err = filepath.Abs(folder)
	if err != nil {
		return err
	}
	name := filepath.Base(folder) + ".git"
	if _, err := devgit.Import(ctx, folder, filepath.Join(root, name), "Import "+name, time.Now()); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if _, err := devgit.Start(ctx, address, &devgit.Handler{Root: root}); err != nil {
		return err
	}
	url := fmt.Sprintf("http://git.%s:%s/%s", node.Domain, gitPort, name)
	var words []string
	for _, word := range command {
		words = append(words, strings.ReplaceAll(word, "{}", url))
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
