package kind

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/stepwright/stepwright/ci/cluster/node"
)

// A kubelet changes settings of the machine that runs the engine, for which there are no namespaces. The engine reads
// them and puts them back: it may be a virtual machine's, and its user need not be root.

// noteSettings writes down the settings before there is a kubelet.
func (c *Cluster) noteSettings(ctx context.Context) error {
	settings, err := c.Output(ctx, c.engine(
		"run", "--rm", "--network", "none", "--entrypoint", "sh", c.images().node, "-c",
		"for file in "+strings.Join(node.HostSettings, " ")+
			`; do [ ! -r "$file" ] || echo "$file $(cat "$file")"; done`))
	if err != nil {
		return err
	}
	return os.WriteFile(c.State.Path("settings"), settings, 0o644)
}

// restoreSettings puts them back. An engine without root's rights cannot, and its kubelet has not changed any.
func (c *Cluster) restoreSettings(ctx context.Context) error {
	settings, err := os.ReadFile(c.State.Path("settings"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	command := c.engine("run", "--rm", "--network", "none", "--interactive", "--privileged", "--entrypoint", "sh",
		c.images().node, "-c",
		`while read -r file value; do [ "$(cat "$file")" = "$value" ] || echo "$value" >"$file" || true; done`)
	command.Stdin = settings
	_, err = c.Output(ctx, command)
	return err
}
