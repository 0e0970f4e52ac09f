//go:build !linux

package main

import (
	"errors"

	"github.com/stepwright/stepwright/ci/cluster/kind"
	"github.com/stepwright/stepwright/ci/cluster/node"
)

func newNode(*node.State, *progress) (Provider, error) {
	return nil, errors.New("the cluster that needs no Docker needs Linux; " + kind.Variable + "=" + kind.Name +
		" in the environment chooses the other")
}
