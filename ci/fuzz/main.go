// Command fuzz runs every fuzz target of the project for a while, one after the other, and keeps what it finds. A crash
// does not end it: at the end it lists all.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	limit := flag.Duration("time", 30*time.Second, "how long each target runs; 0: only keep inputs")
	only := flag.String("only", "", "the targets to run: a regular expression, of <folder>.<target>")
	save := flag.Int("save", 0, "how many inputs that reach more code to keep of each target, in testdata/fuzz")
	record := flag.String("record", "", "the `folder` whose fuzzing.json and fuzzing.md to bring up to date")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := regexp.Compile(*only)
	if err == nil {
		err = round{chosen, *limit, *save, *record, os.Stdout}.run(ctx)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "fuzz: %v\n", err)
		os.Exit(1)
	}
}
