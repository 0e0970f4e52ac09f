package buildkit

import "github.com/moby/buildkit/util/archutil"

func init() { programs["arm64"] = archutil.Binaryarm64 }
