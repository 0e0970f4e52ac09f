package dockerfile

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/steps/internal/buildkit"
)

// daemonWait is how long daemons given by address may take until one answers. Tests shorten it.
var daemonWait = 15 * time.Second

// resolver finds the daemons of a host's name. Tests have a DNS server of their own.
var resolver *net.Resolver

// pool is the daemons at the address.
func (in Parameters) pool() buildkit.Pool {
	return buildkit.Pool{
		Addresses: in.BuildKitAddress,
		TLSDir:    in.BuildKitTLSDir,
		Component: in.Owner.Label(),
		Wait:      daemonWait,
		Resolver:  resolver,
	}
}

// move connects the builder to another daemon where err means that the daemon is lost, and returns nil: then the build
// runs once more. Else it returns the build's failure.
func (b *build) move(ctx context.Context, err error, w *watch, builder *buildkit.BuildKit) error {
	if !builder.IsLost(err) {
		return b.explain(err, w, builder)
	}
	started, gone := time.Now(), builder.Address
	moved, failure := builder.Move(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failure != nil {
		f := outcome.Of(failure)
		return outcome.Errorf(f.Reason, "BuildKit at %s ended in the middle of the build, and %w", gone, failure).
			WithHint(f.Hint)
	}
	if !moved {
		return b.explain(err, w, builder)
	}
	b.env.Log.Warn("The BuildKit daemon ended in the middle of the build, which runs once more",
		"lost", gone, "address", builder.Address, "because", err, "took", time.Since(started))
	return nil
}

// lost is the failure of a build whose builder is gone.
func lost(err error, builder *buildkit.BuildKit) error {
	who := "the builder ended in the middle of the build"
	hint := "Where it was killed, the pod most likely needs more memory."
	if builder.Address != "" {
		who = "BuildKit at " + builder.Address + " ended in the middle of the build"
		hint = "Where it was killed, the daemon most likely needs more memory."
	}
	if builder.Lost != "" {
		who += ", as the one at " + builder.Lost + " did before"
	}
	return outcome.Errorf(outcome.BuilderUnavailable, "%s: %w", who, errors.Join(builder.Close(), err)).WithHint(hint)
}
