// Package faults holds the fault matrix, as tests: each step, as it is released, beside real servers, while something
// breaks. A cell of the matrix is a step and a fault; each says how the step may end, and that nothing is lost by it.
// docs/reference/reliability.md is written of them. What takes a cluster is in ci/e2e.
package faults
