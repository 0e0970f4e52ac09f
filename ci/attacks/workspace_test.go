package attacks

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/outcome"
)

// victim is a repository with a harmless descriptor.
var victim = map[string]string{
	"Dockerfile":       "FROM scratch\nCOPY app /app\n",
	"app/main":         "harmless\n",
	"workload.yaml":    "endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: api/openapi.yaml}\n",
	"api/openapi.yaml": "openapi: 3.0.0\n",
	"plain/README.md":  "without a descriptor\n",
}

// evil is a descriptor that gives away what is not the component's.
const evil = "endpoints:\n- {name: evil, port: 80, type: HTTP, visibility: [external]}\n" +
	"configurations:\n  env:\n  - {name: TOKEN, valueFrom: {secretKeyRef: {name: other-component, key: token}}}\n"

// checkedOut is a workspace after checkout-source, and what that handed over.
type checkedOut struct{ workspace, digest, revision string }

func checkOut(t *testing.T, files map[string]string) checkedOut {
	t.Helper()
	root, source := t.TempDir(), t.TempDir()
	write(t, source, files)
	if _, err := devgit.Import(
		t.Context(), source, filepath.Join(root, "cart.git"), "first", time.Unix(1767225600, 0),
	); err != nil {
		t.Fatal(err)
	}
	url, err := devgit.Start(t.Context(), "127.0.0.1:0", &devgit.Handler{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	c := checkedOut{workspace: filepath.Join(t.TempDir(), "vol")}
	end := step(t, "checkout-source", "--git-repo="+url+"/cart.git", "--branch=main", "--workspace="+c.workspace)
	c.digest, c.revision = end.result("source-digest"), end.result("revision")
	if c.digest == "" || c.revision == "" {
		t.Fatalf("checkout-source hands over %q and %q\n%s", c.digest, c.revision, end.stderr)
	}
	return c
}

// again is a copy of a workspace, to be tampered with on its own.
func (c checkedOut) again(t *testing.T) checkedOut {
	t.Helper()
	to := filepath.Join(t.TempDir(), "vol")
	if err := os.CopyFS(to, os.DirFS(c.workspace)); err != nil {
		t.Fatal(err)
	}
	c.workspace = to
	return c
}

func (c checkedOut) generate(t *testing.T, flags ...string) ending {
	t.Helper()
	return step(t, "generate-workload-cr", append([]string{
		"--dry-run", "--workspace=" + c.workspace, "--source-digest=" + c.digest,
		"--image=registry.example.com/acme/cart:v1",
		"--namespace-name=acme", "--project-name=shop", "--component-name=cart", "--run-name=cart-1",
	}, flags...)...)
}

func (c checkedOut) build(t *testing.T) ending {
	t.Helper()
	return step(t, "containerfile-build", "--workspace="+c.workspace, "--source-digest="+c.digest,
		"--revision="+c.revision)
}

// at is a path of the workspace.
func (c checkedOut) at(path string) string { return filepath.Join(c.workspace, path) }

// put replaces a file of the workspace, whatever it is.
func (c checkedOut) put(path, content string) error {
	return errors.Join(os.RemoveAll(c.at(path)), os.WriteFile(c.at(path), []byte(content), 0o644))
}

// forge rewrites the list of files, as an attacker can who knows how it is made, so that it suits another content.
func (c checkedOut) forge(path, content string) error {
	raw, err := os.ReadFile(c.at("tree/manifest"))
	if err != nil {
		return err
	}
	records := strings.SplitAfter(string(raw), "\x00")
	for i, record := range records {
		if strings.HasSuffix(record, "\t"+path+"\x00") {
			records[i] = fmt.Sprintf("100644 %d %x\t%s\x00", len(content), sha256.Sum256([]byte(content)), path)
		}
	}
	return errors.Join(c.put("source/"+path, content), c.put("tree/manifest", strings.Join(records, "")))
}

// tampering is what a build that could write to the whole workspace may leave in it.
var tampering = map[string]func(c checkedOut) error{
	"another descriptor": func(c checkedOut) error { return c.put("source/workload.yaml", evil) },
	"a descriptor of the same length": func(c checkedOut) error {
		return c.put("source/workload.yaml", strings.Replace(victim["workload.yaml"], "port: 80", "port: 22", 1))
	},
	"another descriptor, as old as the first": func(c checkedOut) error {
		info, err := os.Stat(c.at("source/workload.yaml"))
		if err != nil {
			return err
		}
		return errors.Join(c.put("source/workload.yaml", evil),
			os.Chtimes(c.at("source/workload.yaml"), info.ModTime(), info.ModTime()))
	},
	"a descriptor and a list that suits it": func(c checkedOut) error { return c.forge("workload.yaml", evil) },
	"a schema and a list that suits it":     func(c checkedOut) error { return c.forge("api/openapi.yaml", "token") },
	"no descriptor": func(c checkedOut) error {
		return os.Remove(c.at("source/workload.yaml"))
	},
	"another schema": func(c checkedOut) error {
		return c.put("source/api/openapi.yaml", "token")
	},
	"swapped files": func(c checkedOut) error {
		return errors.Join(c.put("source/workload.yaml", victim["api/openapi.yaml"]),
			c.put("source/api/openapi.yaml", victim["workload.yaml"]))
	},
	"a link to the step's own files": func(c checkedOut) error {
		return errors.Join(os.Remove(c.at("source/api/openapi.yaml")),
			os.Symlink("/proc/self/environ", c.at("source/api/openapi.yaml")))
	},
	"a link to another file of the repository": func(c checkedOut) error {
		return errors.Join(os.Remove(c.at("source/api/openapi.yaml")),
			os.Symlink("../plain/README.md", c.at("source/api/openapi.yaml")))
	},
	"a folder that leads elsewhere": func(c checkedOut) error {
		return errors.Join(os.Rename(c.at("source/api"), c.at("api")), c.put("api/openapi.yaml", "token"),
			os.Symlink("../api", c.at("source/api")))
	},
	"a hard link": func(c checkedOut) error {
		return errors.Join(os.Remove(c.at("source/workload.yaml")), c.put("evil", evil),
			os.Link(c.at("evil"), c.at("source/workload.yaml")))
	},
	"a pipe": func(c checkedOut) error {
		return pipe(c.at("source/workload.yaml"))
	},
	"a file without end": func(c checkedOut) error {
		return link("/dev/zero", c.at("source/workload.yaml"))
	},
	"a sparse file of a terabyte": func(c checkedOut) error { return os.Truncate(c.at("source/workload.yaml"), 1<<40) },
	"another source": func(c checkedOut) error {
		return errors.Join(os.Rename(c.at("source"), c.at("old")), os.MkdirAll(c.at("source/api"), 0o755),
			c.put("source/workload.yaml", evil))
	},
	"the source is a link": func(c checkedOut) error {
		return errors.Join(os.Rename(c.at("source"), c.at("old")), os.Symlink("old", c.at("source")),
			c.put("old/workload.yaml", evil))
	},
	"no list":              func(c checkedOut) error { return os.Remove(c.at("tree/manifest")) },
	"an empty list":        func(c checkedOut) error { return c.put("tree/manifest", "") },
	"a list without end":   func(c checkedOut) error { return os.Truncate(c.at("tree/manifest"), 1<<40) },
	"a list of NUL":        func(c checkedOut) error { return c.put("tree/manifest", strings.Repeat("\x00", 1<<20)) },
	"the list is a pipe":   func(c checkedOut) error { return pipe(c.at("tree/manifest")) },
	"the list is a device": func(c checkedOut) error { return link("/dev/zero", c.at("tree/manifest")) },
	"the list is a folder": func(c checkedOut) error {
		return errors.Join(os.Remove(c.at("tree/manifest")), os.Mkdir(c.at("tree/manifest"), 0o755))
	},
}

func pipe(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o666)) }

func link(to, path string) error { return errors.Join(os.Remove(path), os.Symlink(to, path)) }

// Neither a Workload nor an image is made of what somebody has left in the workspace between the steps.
func TestTamperedWorkspace(t *testing.T) {
	original := checkOut(t, victim)
	if end := original.generate(t); end.report.Failed() || !strings.Contains(end.stdout, "web") {
		t.Fatalf("what was checked out is refused: %s\n%s", end.report.Message, end.stderr)
	}
	for name, tamper := range tampering {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := original.again(t)
			if err := tamper(c); err != nil {
				t.Fatal(err)
			}
			end := c.generate(t)
			end.refused(t, outcome.SourceChanged)
			if end.stdout != "" {
				t.Errorf("it published %s", end.stdout)
			}
			if end := c.build(t); end.report.Reason != outcome.SourceChanged {
				t.Errorf("the build ended with %s: %s", end.report.Reason, end.report.Message)
			}
			if entries, err := os.ReadDir(c.at("image")); err != nil || len(entries) > 0 {
				t.Errorf("an image was made: %v, %v", entries, err)
			}
		})
	}
}

// What only a build reads is compared before anything of it runs.
func TestTamperedBuild(t *testing.T) {
	original := checkOut(t, victim)
	for name, tamper := range map[string]func(c checkedOut) error{
		"another Dockerfile":     func(c checkedOut) error { return c.put("source/Dockerfile", "FROM evil\n") },
		"an ignore file added":   func(c checkedOut) error { return c.put("source/.dockerignore", "*\n") },
		"a file added":           func(c checkedOut) error { return c.put("source/app/evil", "") },
		"a folder added":         func(c checkedOut) error { return os.Mkdir(c.at("source/app/evil"), 0o755) },
		"another spelling added": func(c checkedOut) error { return c.put("source/.GIT", "gitdir: x") },
		"a file gone":            func(c checkedOut) error { return os.Remove(c.at("source/app/main")) },
		"a program":              func(c checkedOut) error { return os.Chmod(c.at("source/app/main"), 0o755) },
		"a file to be waited for": func(c checkedOut) error {
			return syscall.Mkfifo(c.at("source/app/pipe"), 0o666)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := original.again(t)
			if err := tamper(c); err != nil {
				t.Fatal(err)
			}
			c.build(t).refused(t, outcome.SourceChanged)
		})
	}
}

// A descriptor that was never checked out is not one, and what the workspace tells of the revision counts for nothing.
func TestNothingAddedIsBelieved(t *testing.T) {
	c := checkOut(t, victim)
	for path, content := range map[string]string{
		"source/plain/workload.yaml": evil, "revision.json": `{"url":"https://git.example.com/victim.git"}`,
	} {
		if err := c.put(path, content); err != nil {
			t.Fatal(err)
		}
	}
	end := c.generate(t, "--app-path=plain")
	if end.report.Failed() || strings.Contains(end.stdout, "evil") || end.result("workload-from-source") != "false" {
		t.Errorf("it ended with %s and published %s", end.report.Message, end.stdout)
	}
	if err := pipe(c.at("revision.json")); err != nil {
		t.Fatal(err)
	}
	if end := c.generate(t, "--app-path=plain"); end.report.Failed() {
		t.Errorf("it ended with %s", end.report.Message)
	}
}

// Without a digest, too, nothing is waited for, and nothing is read without end.
func TestFilesThatAreNone(t *testing.T) {
	for name, path := range map[string]string{"descriptor": "source/workload.yaml", "revision": "revision.json"} {
		for kind, make := range map[string]func(path string) error{
			"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o666) },
			"device": func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|5) },
			"link":   func(path string) error { return os.Symlink("/dev/zero", path) },
			"socket": func(path string) error { return syscall.Mknod(path, syscall.S_IFSOCK|0o666, 0) },
			"sparse": func(path string) error {
				return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40))
			},
		} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel()
				c := checkedOut{workspace: t.TempDir()}
				write(t, c.workspace, map[string]string{"source/Dockerfile": "FROM scratch\n"})
				if err := make(c.at(path)); errors.Is(err, syscall.EPERM) {
					t.Skip(err)
				} else if err != nil {
					t.Fatal(err)
				}
				if name == "descriptor" {
					if end := c.generate(t); !end.report.Failed() {
						t.Errorf("it published %s", end.stdout)
					}
					return
				}
				end := step(t, "containerfile-build", "--workspace="+c.workspace)
				if !end.report.Failed() || !strings.Contains(end.report.Message, "revision.json") {
					t.Errorf("it ended with %s", end.report.Message)
				}
			})
		}
	}
}

// What a CI's checkout keeps in .git, such as its token, is not published, whatever way leads there.
func TestGitIsNotPublished(t *testing.T) {
	const token = "AUTHORIZATION: basic canary-4711"
	for name, path := range map[string]string{
		"plainly": ".git/config", "with a slash": "/.git/config", "with dots": "api/../.git/./config",
		"through .git": ".git/../.git/config", "in capitals": ".GIT/config", "by a short name": "git~1/config",
		"by a link": "link", "by a folder's link": "folder/config", "by two links": "two/config",
		"a submodule's": "sub/.git", "of a separate folder": "meta/config", "below the application": "api/.git/config",
		"with a dot at the end": ".git./config", "with an ignored character": ".g\u200dit/config",
	} {
		for _, what := range []string{"schemaFile", "file", "descriptor"} {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				c := checkedOut{workspace: t.TempDir()}
				secret := "[http]\n\textraheader = " + token + "\n"
				files := map[string]string{"source/sub/.git": "gitdir: " + token + "\n"}
				for _, dir := range []string{".git", ".GIT", "git~1", "api/.git", "meta", ".git.", ".g\u200dit"} {
					files["source/"+dir+"/config"] = secret
				}
				for _, file := range []string{"HEAD", "objects/x", "refs/x"} {
					files["source/meta/"+file] = ""
				}
				descriptor := fmt.Sprintf(
					"endpoints:\n- {name: web, port: 80, type: HTTP, schemaFile: %q}\n", path)
				flags := []string{}
				switch what {
				case "file":
					descriptor = fmt.Sprintf(
						"configurations:\n  files:\n  - {name: f, mountPath: /f, valueFrom: {path: %q}}\n", path)
				case "descriptor":
					flags = append(flags, "--app-path="+filepath.Dir(path))
					if dir := filepath.Join("source", filepath.Dir(path)); dir != "source" {
						files[dir+"/workload.yaml"] = evil
					}
				}
				files["source/workload.yaml"] = descriptor
				if strings.HasPrefix(path, "folder/") || strings.HasPrefix(path, "two/") {
					delete(files, filepath.Join("source", filepath.Dir(path))+"/workload.yaml")
				}
				write(t, c.workspace, files)
				for name, target := range map[string]string{"link": ".git/config", "folder": ".git", "two": "folder"} {
					if err := os.Symlink(target, c.at("source/"+name)); err != nil {
						t.Fatal(err)
					}
				}
				if what == "descriptor" && filepath.Dir(path) == "." {
					t.Skip("the descriptor's folder is the repository's")
				}
				end := c.generate(t, flags...)
				if what == "descriptor" && filepath.Base(filepath.Dir(path)) == "sub" {
					return // the folder of a submodule is part of the repository
				}
				if !end.report.Failed() || strings.Contains(end.stdout+end.stderr+end.report.Message, token) {
					t.Errorf("it ended with %s: %s\n%s", end.report.Reason, end.report.Message, end.stdout)
				}
			})
		}
	}
}

// Nor does a build get it by its path.
func TestGitIsNoBuildContext(t *testing.T) {
	for name, flags := range map[string][]string{
		"context":    {"--docker-context=.git"},
		"link":       {"--docker-context=link"},
		"Dockerfile": {"--dockerfile-path=.git/config"},
		"capitals":   {"--docker-context=.GIT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			workspace := t.TempDir()
			write(t, workspace, map[string]string{
				"source/Dockerfile": "FROM scratch\nCOPY . /\n", "source/.git/config": "FROM scratch\n",
				"source/.GIT/config": "x",
			})
			if err := os.Symlink(".git", filepath.Join(workspace, "source/link")); err != nil {
				t.Fatal(err)
			}
			step(t, "containerfile-build", append(flags, "--workspace="+workspace)...).
				refused(t, outcome.PathEscapesRepository, "Git keeps for itself")
		})
	}
}
