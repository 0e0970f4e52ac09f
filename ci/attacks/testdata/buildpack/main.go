// Command buildpack is a hostile buildpack, detection and build. What it does stands in the application's file attacks,
// a command on each line; in arguments, \n is a new line. What comes of each is printed: ok, or the error.
//
//	write PATH TEXT   writes a file, in place of whatever is there
//	append PATH TEXT  appends to a file
//	link PATH TARGET  makes a symbolic link, in place of whatever is there
//	pipe PATH         makes a named pipe, in place of whatever is there
//	list PATH         prints the names in a folder
//	read PATH         prints the beginning of a file
//	noise BYTES       prints that many bytes, without a line's end
//	print TEXT        prints a text, in which \e is the escape character
//	linger            goes on with all that follows, again and again, in a process of its own session
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	switch {
	case filepath.Base(os.Args[0]) == "detect":
		return
	case len(os.Args) > 1 && os.Args[1] == "daemon": // whose parent is gone in a moment
		daemon := exec.Command("/proc/self/exe", "linger", os.Args[2])
		daemon.Stdout = os.Stdout
		daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := daemon.Start(); err != nil {
			fmt.Println("linger:", err)
		}
		return
	case len(os.Args) > 1 && os.Args[1] == "linger":
		for {
			for line := range strings.Lines(os.Args[2]) {
				_ = attack(strings.TrimSpace(line))
			}
			time.Sleep(time.Millisecond)
		}
	}
	if err := build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func build() error {
	layers := os.Getenv("CNB_LAYERS_DIR")
	layer := filepath.Join(layers, "app")
	if err := os.MkdirAll(layer, 0o755); err != nil {
		return err
	}
	const launch = "[[processes]]\ntype = \"web\"\ncommand = [\"web\"]\ndefault = true\n"
	const bill = `{"bomFormat":"CycloneDX","specVersion":"1.4","components":[]}`
	for path, text := range map[string]string{
		filepath.Join(layer, "product.txt"):           "the product\n",
		layer + ".toml":                               "[types]\nlaunch = true\ncache = true\n",
		filepath.Join(layers, "launch.toml"):          launch,
		filepath.Join(layers, "launch.sbom.cdx.json"): bill,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	attacks, err := os.ReadFile("attacks")
	if err != nil {
		return err
	}
	rest := string(attacks)
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if line == "linger" {
			daemon := exec.Command("/proc/self/exe", "daemon", rest)
			// It keeps open what the lifecycle writes to, for the step to wait a while for the end of it.
			if out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", os.Getppid()), os.O_WRONLY, 0); err == nil {
				daemon.Stdout = out
			}
			daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			return daemon.Run()
		}
		if err := attack(line); err != nil {
			fmt.Printf("ATTACK %s: %v\n", line, err)
			continue
		}
		fmt.Printf("ATTACK %s: ok\n", line)
	}
	return nil
}

func attack(line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	path, text, _ := strings.Cut(rest, " ")
	text = strings.ReplaceAll(text, `\n`, "\n")
	instead := func() error {
		_ = os.RemoveAll(path)
		return os.MkdirAll(filepath.Dir(path), 0o755)
	}
	switch verb {
	case "write":
		if err := instead(); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(text), 0o666)
	case "append":
		file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = file.WriteString(text)
		return err
	case "link":
		if err := instead(); err != nil {
			return err
		}
		return os.Symlink(text, path)
	case "pipe":
		if err := instead(); err != nil {
			return err
		}
		return syscall.Mkfifo(path, 0o666)
	case "list":
		entries, err := os.ReadDir(path)
		for _, e := range entries {
			fmt.Println("LISTED", filepath.Join(path, e.Name()))
		}
		return err
	case "read":
		raw, err := os.ReadFile(path)
		fmt.Printf("READ %q\n", raw[:min(len(raw), 200)])
		return err
	case "noise":
		n, err := strconv.Atoi(path)
		if err != nil {
			return err
		}
		for chunk := bytes.Repeat([]byte("x"), 1<<16); n > 0; n -= len(chunk) {
			_, _ = os.Stdout.Write(chunk)
		}
	case "print":
		_, _ = os.Stdout.WriteString(strings.ReplaceAll(strings.ReplaceAll(rest, `\n`, "\n"), `\e`, "\x1b") + "\n")
	}
	return nil
}
