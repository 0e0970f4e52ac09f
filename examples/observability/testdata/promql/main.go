// Command promql reads expressions of PromQL, as a list of strings in JSON, and writes for each what Prometheus' own
// parser finds: a fault, or the names of its metrics.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

// answer is what is found in an expression.
type answer struct {
	Fault   string   `json:"fault,omitempty"`
	Metrics []string `json:"metrics,omitempty"`
}

func main() {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		log.Fatal(err)
	}
	promql := parser.NewParser(parser.Options{})
	answers := []answer{}
	for _, text := range expressions {
		var found answer
		expression, err := promql.ParseExpr(text)
		if err != nil {
			found.Fault = err.Error()
		} else {
			parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
				if selector, is := node.(*parser.VectorSelector); is {
					found.Metrics = append(found.Metrics, selector.Name)
				}
				return nil
			})
		}
		answers = append(answers, found)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		log.Fatal(err)
	}
}
