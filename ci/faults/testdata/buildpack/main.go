// Command buildpack is a buildpack that passes for every source. It takes a second for a layer.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "detect" {
		return
	}
	if err := build(os.Getenv("CNB_LAYERS_DIR")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build(layers string) error {
	payload, err := os.ReadFile("payload")
	if err != nil {
		return err
	}
	greeting := filepath.Join(layers, "greeting")
	if err := os.MkdirAll(greeting, 0o755); err != nil {
		return err
	}
	for part := range 10 {
		fmt.Printf("part %d\n", part)
		time.Sleep(100 * time.Millisecond)
		content := payload[part*40_000:][:40_000]
		if err := os.WriteFile(filepath.Join(greeting, fmt.Sprint(part)), content, 0o644); err != nil {
			return err
		}
	}
	if err := os.WriteFile(greeting+".toml", []byte("[types]\nlaunch = true\ncache = true\n"), 0o644); err != nil {
		return err
	}
	const launch = "[[processes]]\ntype = \"web\"\ncommand = [\"/layers/faults_greeter/greeting/0\"]\ndefault = true\n"
	return os.WriteFile(filepath.Join(layers, "launch.toml"), []byte(launch), 0o644)
}
