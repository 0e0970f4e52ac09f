package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	continuity "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// BuildKit remembers a COPY, and a RUN with a bind mount, by what is in the files that they take, and not by the times
// of these. Where only times have changed, it takes the layer of the last build: one commit would have two digests. So
// times are added here to what they are remembered by. Those that the build's clock gave are settled by then.

// timedOp is an instruction that is remembered by times, too.
type timedOp struct {
	solver.Op
	takes map[int][]string // paths of files, by the input that has them
}

// timedKey returns an instruction that is remembered by times of the files that it takes. Those of the context all have
// one time.
func timedKey(v solver.Vertex, op solver.Op) solver.Op {
	instruction, ok := v.Sys().(*pb.Op)
	if !ok {
		return op
	}
	takes := map[int][]string{}
	add := func(input int64, path string) {
		if input < 0 || int(input) >= len(v.Inputs()) {
			return
		}
		from, _ := v.Inputs()[input].Vertex.Sys().(*pb.Op)
		if !strings.HasPrefix(from.GetSource().GetIdentifier(), "local://") {
			takes[int(input)] = append(takes[int(input)], path)
		}
	}
	for _, action := range instruction.GetFile().GetActions() {
		if taken := action.GetCopy(); taken != nil {
			if taken.AllowWildcard && strings.ContainsAny(taken.Src, `*?[\`) {
				add(action.SecondaryInput, "/")
			} else {
				add(action.SecondaryInput, taken.Src)
			}
		}
	}
	for _, m := range instruction.GetExec().GetMounts() {
		add(m.Input, m.Selector)
	}
	if len(takes) == 0 {
		return op
	}
	return timedOp{op, takes}
}

// CacheMap implements solver.Op.
func (o timedOp) CacheMap(ctx context.Context, job solver.JobContext, index int) (*solver.CacheMap, bool, error) {
	m, done, err := o.Op.CacheMap(ctx, job, index)
	if err != nil {
		return m, done, err
	}
	for input, paths := range o.takes {
		if input >= len(m.Deps) || m.Deps[input].ComputeDigestFunc == nil {
			continue
		}
		contents := m.Deps[input].ComputeDigestFunc
		m.Deps[input].ComputeDigestFunc = func(
			ctx context.Context, result solver.Result, group session.Group,
		) (digest.Digest, error) {
			key, err := contents(ctx, result, group)
			ref := refOf(result)
			if err != nil || ref == nil {
				return key, err
			}
			sum := digest.Canonical.Digester()
			fmt.Fprintln(sum.Hash(), key)
			err = inFolder(ctx, ref, true, group, func(dir string) error {
				for _, path := range paths {
					if err := writeTimes(sum, dir, path); err != nil {
						return err
					}
				}
				return nil
			})
			return sum.Digest(), err
		}
	}
	return m, done, nil
}

// writeTimes adds the times of a file and of all below it to a digest, in seconds: no layer holds more. The path is one
// in the folder dir, out of which no link leads. There may be no such file.
func writeTimes(sum digest.Digester, dir, name string) error {
	add := func(name string, info fs.FileInfo) { fmt.Fprintf(sum.Hash(), "%q %d\n", name, info.ModTime().Unix()) }
	name = path.Join("/", name)
	if name != "/" {
		folder, err := continuity.RootPath(dir, path.Dir(name))
		if err != nil {
			return err
		}
		info, err := os.Lstat(filepath.Join(folder, path.Base(name)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		add(name, info)
	}
	real, err := continuity.RootPath(dir, name)
	if err != nil {
		return err
	}
	return filepath.WalkDir(real, func(at string, entry fs.DirEntry, err error) error {
		if at == real && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			add(strings.TrimPrefix(at, real), info)
		}
		return err
	})
}
