package main

import (
	"fmt"
	"io"
	"strings"
	"text/template"
)

const defaultTemplate = "{{.Greeting}}, {{.Name}}!"

// A greeter makes greetings from a word such as "Hello" and a template.
type greeter struct {
	greeting string
	template *template.Template
}

type salutation struct{ Greeting, Name string }

func newGreeter(greeting, text string) (*greeter, error) {
	parsed, err := template.New("greeting").Parse(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("greeting template: %w", err)
	}
	// A field that does not exist is only found when the template is executed: now, rather than at the first request.
	if err := parsed.Execute(io.Discard, salutation{greeting, "World"}); err != nil {
		return nil, fmt.Errorf("greeting template: %w", err)
	}
	return &greeter{greeting, parsed}, nil
}

func (g *greeter) greet(name string) (string, error) {
	var message strings.Builder
	err := g.template.Execute(&message, salutation{g.greeting, name})
	return message.String(), err
}
