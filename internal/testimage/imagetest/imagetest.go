// Package imagetest helps tests that look into images, and run their programs.
package imagetest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Main runs a package's tests with a folder that they share, and ends the program. Every user may enter the folder,
// which is not so with a test's own.
func Main(m *testing.M, shared *string) {
	dir, err := os.MkdirTemp("", "stepwright-images-test-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	*shared = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// Walk calls visit for every entry of a layer, compressed by gzip or not at all.
func Walk(t testing.TB, layer v1.Layer, visit func(header *tar.Header, content io.Reader)) {
	t.Helper()
	compressed, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer compressed.Close()
	// The race detector makes Go's own decompression of 100 MB take very long.
	gunzip := exec.CommandContext(t.Context(), "gzip", "--decompress", "--stdout", "--force")
	gunzip.Stdin = compressed
	content, err := gunzip.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := gunzip.Start(); err != nil {
		t.Fatal(err)
	}
	for reader := tar.NewReader(content); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		visit(header, reader)
	}
	if _, err := io.Copy(io.Discard, content); err != nil { // the padding
		t.Fatal(err)
	}
	if err := gunzip.Wait(); err != nil {
		t.Fatal(err)
	}
}
