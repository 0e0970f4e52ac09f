// Command buildpack is three buildpacks for tests, detection and build of each, told apart by where the program
// lies: test/certificates passes for every source, as Paketo's ca-certificates does, test/dependencies keeps a layer
// for the next build, and test/greeter makes the application of greeting.txt and tells of the container that it runs
// in.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	id := filepath.Base(filepath.Dir(os.Getenv("CNB_BUILDPACK_DIR")))
	var err error
	switch name := filepath.Base(os.Args[0]); id + " " + name {
	case "test_certificates detect", "test_certificates build":
	case "test_dependencies detect", "test_greeter detect":
		err = detect(id)
	case "test_dependencies build":
		err = dependencies(os.Getenv("CNB_LAYERS_DIR"))
	case "test_greeter build":
		err = greeter(os.Getenv("CNB_LAYERS_DIR"))
	default:
		err = fmt.Errorf("no buildpack %s", id)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func detect(id string) error {
	file := map[string]string{"test_dependencies": "dependencies.txt", "test_greeter": "greeting.txt"}[id]
	if _, err := os.Stat("crash-" + id); err == nil {
		for line := range 20 {
			fmt.Printf("line %d before\n", line)
		}
		return fmt.Errorf("cannot look for %s", file)
	}
	if _, err := os.Stat(file); err != nil {
		fmt.Printf("there is no %s\n", file)
		os.Exit(100)
	}
	return nil
}

// dependencies takes long for what it has not kept.
func dependencies(layers string) error {
	wanted, err := os.ReadFile("dependencies.txt")
	if err != nil {
		return err
	}
	for line := range 60 {
		fmt.Printf("dependencies: line %d\n", line)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(wanted))
	layer := filepath.Join(layers, "modules")
	// Restored metadata is without types.
	known, _ := os.ReadFile(layer + ".toml")
	metadata := fmt.Sprintf("[types]\ncache = true\nlaunch = true\nbuild = true\n[metadata]\ndigest = %q\n", digest)
	if strings.Contains(string(known), digest) {
		fmt.Println("dependencies: as before")
		return os.WriteFile(layer+".toml", []byte(metadata), 0o644)
	}
	fmt.Println("dependencies: fetched")
	if err := os.RemoveAll(layer); err != nil {
		return err
	}
	if err := os.MkdirAll(layer, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layer, "modules.txt"), wanted, 0o644); err != nil {
		return err
	}
	if err := revision(layer); err != nil {
		return err
	}
	return os.WriteFile(layer+".toml", []byte(metadata), 0o644)
}

// revision sets a variable in a layer as Paketo's buildpack for Git does, where the source has a value for it.
func revision(layer string) error {
	value, err := os.ReadFile("revision.txt")
	if err != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Join(layer, "env"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layer, "env", "REVISION.default"), value, 0o644)
}

func greeter(layers string) error {
	if _, err := os.Stat("quiet.txt"); err == nil {
		return end()
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Cap") || strings.HasPrefix(line, "Uid") || strings.HasPrefix(line, "Gid") ||
			strings.HasPrefix(line, "NoNewPrivs") {
			fmt.Print("status ", line)
		}
	}
	environ := os.Environ()
	slices.Sort(environ)
	for _, v := range environ {
		fmt.Printf("variable %q\n", v)
	}
	bindings, _ := filepath.Glob(filepath.Join(os.Getenv("CNB_PLATFORM_DIR"), "bindings", "*", "*"))
	for _, path := range bindings {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Printf("binding %s\nits content: %s\n", path, content)
	}
	for _, path := range []string{"/etc/secrets", "/var/run/secrets"} {
		filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
			if err == nil {
				fmt.Println("secret", path)
			}
			return nil
		})
	}
	filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err == nil {
			fmt.Println("file", path)
		}
		return nil
	})
	if _, err := os.Stat("wait.txt"); err == nil {
		fmt.Println("waiting")
		time.Sleep(time.Hour)
	}
	if err := end(); err != nil {
		return err
	}
	for _, kind := range []string{"launch", "build"} {
		bill := fmt.Sprintf(`{"bomFormat":"CycloneDX","specVersion":"1.4","components":[`+
			`{"type":"library","name":"for-%[1]s","version":"1.0","purl":"pkg:generic/for-%[1]s@1.0"}]}`, kind)
		if own, err := os.ReadFile(kind + ".txt"); err == nil {
			bill = string(own)
		}
		if err := os.WriteFile(filepath.Join(layers, kind+".sbom.cdx.json"), []byte(bill), 0o644); err != nil {
			return err
		}
	}
	launch := "[[processes]]\ntype = \"web\"\ncommand = [\"cat\"]\nargs = [\"/workspace/greeting.txt\"]\n" +
		"default = true\n"
	return os.WriteFile(filepath.Join(layers, "launch.toml"), []byte(launch), 0o644)
}

// end ends the build where the source wants it.
func end() error {
	if _, err := os.Stat("kill.txt"); err == nil {
		return syscall.Kill(os.Getppid(), syscall.SIGKILL) // the lifecycle, as a kernel without memory might
	}
	if message, err := os.ReadFile("fail.txt"); err == nil {
		fmt.Printf("a line before\n%s", message)
		os.Exit(3)
	}
	return nil
}
