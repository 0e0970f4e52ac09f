package dockerfile

import (
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// The values of the parameter timestamps.
const (
	commitTimes = "commit"
	keptTimes   = "keep"
)

// epochArg is the build argument by which Dockerfiles and BuildKit know the time of the source.
const epochArg = "SOURCE_DATE_EPOCH"

// fixedTime is the time of files that a build makes, unless it is asked for another. It depends on no commit, so that a
// layer that an earlier commit's build has left is the one that this commit's build would make. Archives of zip cannot
// hold times before 1980, and this one is in 1980 in every time zone.
var fixedTime = time.Date(1980, 1, 2, 0, 0, 0, 0, time.UTC)

// fileTime is the time of the files that the build makes; nil when they keep theirs.
func (b *build) fileTime() *time.Time {
	switch {
	case b.epoch == nil || b.in.Timestamps == keptTimes:
		return nil
	case b.in.Timestamps == commitTimes:
		return b.epoch
	default:
		return &fixedTime
	}
}

// dates are times that an image is given.
type dates struct {
	files *time.Time // of what the build makes; nil: each has its own
	image time.Time  // of the image itself; meaningful with files
}

func (b *build) dates() dates {
	d := dates{files: b.fileTime()}
	if d.files != nil {
		d.image = *b.epoch
	}
	return d
}

// frontendEpoch is what BuildKit takes for the time of the source. That is part of what it remembers instructions by,
// so that it is the commit's only where the Dockerfile asks for it, or no earlier build's layers are of use anyway; seal
// puts the commit's time where the image tells its own.
func (b *build) frontendEpoch() time.Time {
	if at := b.fileTime(); at != nil && !b.source.asksForEpoch() {
		return *at
	}
	return *b.epoch
}

// asksForEpoch tells whether the Dockerfile declares the build argument that tells the time of the source.
func (s *source) asksForEpoch() bool {
	declares := func(arg instructions.ArgCommand) bool {
		for _, a := range arg.Args {
			if a.Key == epochArg {
				return true
			}
		}
		return false
	}
	for _, arg := range s.global {
		if declares(arg) {
			return true
		}
	}
	for _, stage := range s.stages {
		for _, command := range stage.Commands {
			if arg, ok := command.(*instructions.ArgCommand); ok && declares(*arg) {
				return true
			}
		}
	}
	return false
}
