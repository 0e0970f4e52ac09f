//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
)

func (k *kindProvider) extend(*cobra.Command) {}

func (k *kindProvider) startNamespaces(context.Context, string) error {
	return errors.New("namespaces need Linux")
}

func (k *kindProvider) endNamespaces() error { return nil }
