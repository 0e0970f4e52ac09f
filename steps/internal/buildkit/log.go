package buildkit

// wholeLog are variables by which the builder hands on all that an instruction prints. Without them it leaves out what
// comes faster than 200 KiB in a second, or is more than 2 MiB. It keeps what it hands on till the build ends, so there
// is still a bound, of which it tells in the log: no cluster keeps as much of a container's log.
var wholeLog = []string{"BUILDKIT_STEP_LOG_MAX_SPEED=-1", "BUILDKIT_STEP_LOG_MAX_SIZE=67108864"}
