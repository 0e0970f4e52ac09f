package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// Reason is one way a step can end, as outcome.schema.json lists it.
type Reason struct {
	Name     string `json:"const"`
	Summary  string `json:"description"`
	Class    string `json:"x-class"`
	ExitCode int    `json:"x-exit-code"`
	Hint     string `json:"x-hint"`
}

// Reasons is the closed list of how a step can end.
var Reasons = sync.OnceValue(func() []Reason {
	var outcome struct {
		Defs struct {
			Reason struct {
				OneOf []Reason `json:"oneOf"`
			} `json:"reason"`
		} `json:"$defs"`
	}
	raw, err := Source("outcome")
	if err == nil {
		err = json.Unmarshal(raw, &outcome)
	}
	if err != nil {
		panic(fmt.Sprintf("schemas: outcome: %v", err)) // embedded, and tested
	}
	return outcome.Defs.Reason.OneOf
})

// ReasonNamed returns the reason of that name, if the list has it.
func ReasonNamed(name string) (reason Reason, ok bool) {
	all := Reasons()
	i := slices.IndexFunc(all, func(r Reason) bool { return r.Name == name })
	if i < 0 {
		return Reason{}, false
	}
	return all[i], true
}
