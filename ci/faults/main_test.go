package faults

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// shared are what all cells share; nil where the tests need none.
var shared *works

func TestMain(m *testing.M) {
	runIfNanny()
	flag.Parse()
	os.Exit(func() int {
		if testing.Short() || os.Geteuid() != 0 { // then those that need programs are skipped
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "faults-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = os.Chmod(dir, 0o755)
		}
		if err == nil {
			shared, err = newWorks(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}
