package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLoad has a modprobe that makes the module's file, or refuses.
func TestLoad(t *testing.T) {
	bin, proof := t.TempDir(), filepath.Join(t.TempDir(), "bridge")
	t.Setenv("PATH", bin)
	modprobe := func(script string) {
		if err := os.WriteFile(filepath.Join(bin, "modprobe"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := loadBridgeFilter(proof); err == nil || !strings.Contains(err.Error(), "modprobe") {
		t.Errorf("without modprobe: %v", err)
	}
	modprobe("echo Module $1 not found >&2; exit 1")
	if err := loadBridgeFilter(proof); err == nil ||
		!strings.Contains(err.Error(), "Module br_netfilter not found") {
		t.Errorf("without the module: %v", err)
	}
	modprobe("echo $1 > " + proof)
	if err := loadBridgeFilter(proof); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(proof); err != nil || string(got) != "br_netfilter\n" {
		t.Errorf("%q, %v", got, err)
	}
	modprobe("exit 1")
	if err := loadBridgeFilter(proof); err != nil {
		t.Errorf("loaded already: %v", err)
	}
}
