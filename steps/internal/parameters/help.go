package parameters

import (
	"fmt"
	"strings"

	"github.com/stepwright/stepwright/schemas"
)

const helpWidth = 100

// Help is the text of --help.
func (s *Set) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage:\n  %s", fold(s.schema.Description, ""), s.schema.Name)
	for _, p := range s.schema.Properties {
		if p.Required {
			fmt.Fprintf(&b, " --%s=…", p.Name)
		}
	}
	b.WriteString(
		" [flags]\n\nEvery flag can also be given as the variable named beside it; the flag wins.\n\nFlags:\n",
	)
	for _, p := range s.schema.Properties {
		if p.WriteOnly {
			fmt.Fprintf(&b, "  %s", schemas.EnvName(p.Name))
		} else {
			fmt.Fprintf(&b, "  --%s, %s", p.Name, schemas.EnvName(p.Name))
		}
		about := p.Description
		switch preset := schemas.Text(p.Default); {
		case p.Required:
			b.WriteString(" (required)")
		case p.Default != nil && len(preset) > helpWidth/2:
			about += " Default: " + strings.ReplaceAll(preset, ",", ", ") + "."
		case p.Default != nil && preset != "":
			fmt.Fprintf(&b, " (default %s)", preset)
		}
		if len(p.Enum) > 0 {
			about += " One of " + strings.Join(p.Enum, ", ") + "."
		} else if len(p.Examples) > 0 {
			about += " Example: " + schemas.Text(p.Examples[0])
		}
		fmt.Fprintf(&b, "\n%s\n", fold(about, "        "))
	}
	b.WriteString("\nExit codes:\n")
	for _, r := range schemas.Reasons() {
		fmt.Fprintf(&b, "  %3d  %-22s %s\n", r.ExitCode, r.Name, r.Summary)
	}
	return b.String()
}

// fold breaks a text into lines of at most helpWidth characters.
func fold(text, indent string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
			b.WriteString(indent)
			column = len(indent)
		case column+1+len(word) > helpWidth:
			b.WriteString("\n" + indent)
			column = len(indent)
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
