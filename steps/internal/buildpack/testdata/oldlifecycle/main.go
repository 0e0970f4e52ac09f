// Command oldlifecycle stands in for a lifecycle that has no platform API after 0.11.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintf(
		os.Stderr,
		"ERROR: failed to set platform API: platform API version '%s' is incompatible with the lifecycle\n",
		os.Getenv("CNB_PLATFORM_API"),
	)
	os.Exit(11)
}
