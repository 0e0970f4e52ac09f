package main

import (
	"bufio"
	"bytes"
	"flag"

	"k8s.io/apimachinery/pkg/runtime"
)

var updating = flag.Bool("update", false, "write the page and the plots anew of the record")

func scheme() *runtime.Scheme { return runtime.NewScheme() }

func reader(text []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(text)) }
