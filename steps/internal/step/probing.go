package step

import (
	"cmp"
	"encoding/json"
	"fmt"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

// Probing looks at what a step needs, one thing after another, and prints an outcome.Probe of each.
type Probing struct {
	env    Environment
	failed *outcome.Error // the first that is not minor
	looked int
}

// NewProbing begins to look.
func NewProbing(env Environment) *Probing { return &Probing{env: env} }

// Look looks at one thing, and tells whether it is well. The text that look returns says how it is.
func (p *Probing) Look(check, where string, look func() (string, error)) bool {
	return p.look(outcome.Probe{Check: check, Where: where}, look)
}

// LookMinor is Look for what the step can do without.
func (p *Probing) LookMinor(check, where string, look func() (string, error)) bool {
	return p.look(outcome.Probe{Check: check, Where: where, Minor: true}, look)
}

func (p *Probing) look(probe outcome.Probe, look func() (string, error)) bool {
	p.looked++
	said, err := look()
	probe.Reason, probe.Message = outcome.Succeeded, said
	if failure := outcome.Of(err); failure != nil {
		probe.Reason, probe.Message = failure.Reason, failure.Message
		probe.Hint = cmp.Or(failure.Hint, failure.Reason.Hint())
		if p.failed == nil && !probe.Minor {
			p.failed = failure
		}
	}
	probe.Where = quote.Line(p.env.Secrets.String(probe.Where), lineLimit)
	probe.Message = quote.Line(p.env.Secrets.String(probe.Message), lineLimit)
	probe.Hint = quote.Line(p.env.Secrets.String(probe.Hint), lineLimit)
	line, err := json.Marshal(probe)
	if err != nil {
		panic(err) // texts only
	}
	fmt.Fprintf(p.env.Stdout, "%s\n", line)
	return probe.Reason == outcome.Succeeded
}

// lineLimit bounds each text of a probe, in bytes.
const lineLimit = 4 << 10

// End is how the step ends: by the first thing that is not well.
func (p *Probing) End() error {
	if p.failed != nil {
		return p.failed
	}
	p.env.Say(fmt.Sprintf("all %d things that were looked at are as the step needs them", p.looked))
	return nil
}
