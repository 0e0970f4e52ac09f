package dockerfile

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"github.com/stepwright/stepwright/internal/outcome"
)

// The Dockerfile frontend takes build arguments of this prefix for settings of its own, many of which would give a
// developer what the platform keeps: another frontend or a scanner, both programs from a registry
// (BUILDKIT_SYNTAX, BUILDKIT_ATTEST_SBOM), or another component's cache mounts (BUILDKIT_CACHE_MOUNT_NS).
const settingPrefix = "BUILDKIT_"

// harmlessSettings are those that reach nothing but the build itself.
var harmlessSettings = []string{
	"BUILDKIT_CONTEXT_KEEP_GIT_DIR",
	"BUILDKIT_DOCKERFILE_CHECK",
	"BUILDKIT_INLINE_CACHE", // buildx's; nothing here knows it
	"BUILDKIT_MULTI_PLATFORM",
	"BUILDKIT_SANDBOX_HOSTNAME",
	"BUILDKIT_SBOM_SCAN_CONTEXT", // of what is scanned, by the platform's scanner
	scanStageArg,
}

// checkArguments refuses build arguments that are settings of the builder, and not harmless, or not what it takes.
func (in Parameters) checkArguments() error {
	for _, a := range in.BuildArgs {
		// Nobody but BuildKit means anything by such a name, in whatever case.
		name := strings.ToUpper(strings.TrimSpace(a.Name))
		if strings.HasPrefix(name, settingPrefix) && !slices.Contains(harmlessSettings, a.Name) {
			return outcome.Errorf(
				outcome.InvalidParameters, "build-args: %q is a setting of the builder, which a build may not make",
				a.Name,
			).WithHint("Remove it. A build may set " + strings.Join(harmlessSettings, ", ") + ".")
		}
		var err error
		switch a.Name {
		case "BUILDKIT_MULTI_PLATFORM":
			_, err = strconv.ParseBool(a.Value)
		case "BUILDKIT_DOCKERFILE_CHECK":
			_, err = linter.ParseLintOptions(a.Value)
		}
		if err != nil && a.Value != "" {
			return outcome.Errorf(outcome.InvalidParameters, "build-args: %s: %w", a.Name, err)
		}
	}
	return nil
}

// confine keeps what a builder remembers of this component's builds, and uses again, from those of others:
//   - cache mounts, whatever id the Dockerfile gives them;
//   - results of RUN in a daemon. To BuildKit, the same instruction on the same files has the same result; but secrets,
//     cache mounts and proxies, of which its key knows nothing, are a component's own and can make it what they like.
//     The name of a parent of the cgroups that a RUN is in is part of that key, and of nothing in the image.
//
// Files of the context are confined by sharedKey.
func (in Parameters) confine(attrs map[string]string) {
	owner := in.Owner.Label()
	attrs["build-arg:BUILDKIT_CACHE_MOUNT_NS"] = owner
	if in.BuildKitAddress != "" {
		sum := sha256.Sum256([]byte(owner))
		attrs["cgroup-parent"] = "stepwright-" + hex.EncodeToString(sum[:8])
	}
}

// sharedKey names what may be taken for an earlier state of the same context. BuildKit asks only for files whose path,
// size and time differ from it: with a key in common, a build that guesses them gets the files of another component.
// Where all files have one time, a changed file would not be seen: then only the same source has the same key, of which
// the builder has had nothing but what is in its manifest.
func (b *build) sharedKey() string {
	owner := b.in.Owner.Label()
	switch {
	case owner != "" && b.fileTime() == nil:
		return owner
	case owner != "" && b.source.tree != nil && !keepsGit(b.in.BuildArgs):
		sum := sha256.New()
		for _, part := range []string{owner, b.in.SourceDigest, b.source.below, string(b.source.text)} {
			fmt.Fprintf(sum, "%q\n", part)
		}
		return hex.EncodeToString(sum.Sum(nil))
	}
	return rand.Text()
}

// predefined are the arguments that need no ARG: proxies, which every RUN has, and what the frontend takes for itself.
var predefined = []string{
	"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy",
	"ALL_PROXY", "all_proxy", "SOURCE_DATE_EPOCH",
	"BUILDPLATFORM", "BUILDOS", "BUILDOSVERSION", "BUILDARCH", "BUILDVARIANT",
	"TARGETPLATFORM", "TARGETOS", "TARGETOSVERSION", "TARGETARCH", "TARGETVARIANT", "TARGETSTAGE",
}

// unused returns the build arguments that the Dockerfile does nothing with, in the order given.
func (s *source) unused(in Parameters) []string {
	declared := s.declared()
	var unused []string
	for _, a := range in.BuildArgs {
		if !slices.Contains(predefined, a.Name) && !strings.HasPrefix(a.Name, settingPrefix) &&
			!slices.Contains(declared, a.Name) && !slices.Contains(unused, a.Name) {
			unused = append(unused, a.Name)
		}
	}
	return unused
}

// declared returns the names of all ARGs, those that a stage leaves to the stages upon it included.
func (s *source) declared() []string {
	var names []string
	add := func(command instructions.Command) {
		if c, ok := command.(*instructions.ArgCommand); ok {
			for _, arg := range c.Args {
				names = append(names, arg.Key)
			}
		}
	}
	for i := range s.global {
		add(&s.global[i])
	}
	for i, stage := range s.stages {
		for _, command := range slices.Concat(stage.Commands, s.triggers[i]) {
			add(command)
		}
	}
	return names
}
