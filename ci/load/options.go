package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

// options are what a person asks for.
type options struct {
	runs     []int
	settings []string // names of settings of Argo's controller
	rate     float64
	real     int
	failures float64
	steps    string
	restart  bool
	keep     bool
	docs     string
	git      string
	limit    time.Duration
	override argoSettings
}

// inside tells whether this process is in the cluster.
func inside() bool { return os.Getenv(node.StateVariable) != "" }

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var runs, settings string
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, `load measures many WorkflowRuns at once on a cluster of their own, from the module's root:

  go run ./ci/load                       1, 10, 100 and 1,000 at once
  go run ./ci/load -runs 10 -docs dist   some, and the page elsewhere

`)
		flags.PrintDefaults()
	}
	flags.StringVar(&runs, "runs", "1,10,100,1000", "how many runs, one experiment after the other")
	flags.StringVar(
		&settings, "argo", recommended,
		"settings of Argo's controller, one experiment after the other: "+recommended+", "+defaults,
	)
	flags.Float64Var(&o.rate, "rate", 0, "runs that begin each minute; 0: all at once")
	flags.IntVar(&o.real, "real", 1, "how many of the runs build on the real node, from 10 runs on")
	flags.Float64Var(&o.failures, "failures", 0.02, "share of the simulated steps that fail")
	flags.StringVar(
		&o.steps, "steps", "checkout=4s,build=30s,publish=5s,generate=1s", "how long each simulated step works",
	)
	flags.BoolVar(&o.restart, "restart", true, "kill Argo's controller when half of 100 runs or more have ended")
	flags.BoolVar(&o.keep, "keep", false, "leave the cluster running; make cluster-down ends it")
	flags.StringVar(&o.docs, "docs", "docs/reference", "folder of scale.md, .json and the plots")
	flags.DurationVar(&o.limit, "limit", 40*time.Minute, "how long one experiment may take")
	flags.IntVar(&o.override.Parallelism, "parallelism", -1, "runs that Argo works on at once; 0: all")
	flags.Float64Var(&o.override.QPS, "qps", 0, "requests each second of Argo's controller; 0: as the settings say")
	flags.StringVar(&o.git, "git", "", "repository that the real runs build; set by the program itself")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	for word := range strings.SplitSeq(runs, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return o, fmt.Errorf("-runs %s: it wants numbers, such as 10,100", runs)
		}
		o.runs = append(o.runs, n)
	}
	for name := range strings.SplitSeq(settings, ",") {
		if name != recommended && name != defaults {
			return o, fmt.Errorf("-argo %s: it knows %s and %s", settings, recommended, defaults)
		}
		o.settings = append(o.settings, name)
	}
	if flags.NArg() > 0 {
		return o, errors.New("it takes flags only")
	}
	if o.failures < 0 || o.failures >= 1 {
		return o, errors.New("-failures wants a share from 0 to below 1")
	}
	_, err := parseSteps(o.steps)
	return o, err
}
