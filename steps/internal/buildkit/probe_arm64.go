package buildkit

import "github.com/moby/buildkit/util/archutil"

func init() { programs["amd64"] = archutil.Binaryamd64 }
