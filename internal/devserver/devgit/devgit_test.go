package devgit

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestImportAndServe(t *testing.T) {
	source := t.TempDir()
	for name, content := range map[string]string{
		"app/main.go": "package main\n",
		".gitignore":  "*.o\n",
		"left-out.o":  "x",
	} {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, when := t.TempDir(), time.Unix(1_700_000_000, 0)
	first, err := Import(t.Context(), source, filepath.Join(root, "team/app.git"), "Import", when)
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"team/app.git", "again.git"} { // also over an older one
		again, err := Import(t.Context(), source, filepath.Join(root, repo), "Import", when)
		if err != nil || again != first {
			t.Fatalf("the same files make %s and %s, %v", first, again, err)
		}
	}
	if err := os.WriteFile(filepath.Join(source, "new"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	second, err := Import(t.Context(), source, filepath.Join(root, "team/app.git"), "Import", when)
	if err != nil || second == first {
		t.Fatalf("other files make %s, %v", second, err)
	}
	if _, err := os.Stat(filepath.Join(source, ".git")); err == nil {
		t.Error("the source folder has become a repository")
	}

	url, err := Start(t.Context(), "127.0.0.1:0", &Handler{Root: root, Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	if _, err := Git(t.Context(), "", nil, nil, "clone", "--quiet", "http://u:p@"+url[len("http://"):]+
		"/team/app.git", clone); err != nil {
		t.Fatal(err)
	}
	files, err := Git(t.Context(), clone, nil, nil, "ls-files")
	if err != nil || files != ".gitignore\napp/main.go\nnew" {
		t.Errorf("cloned %q, %v", files, err)
	}
	if _, err := Git(t.Context(), "", nil, nil, "clone", "--quiet", url+"/team/app.git", clone+"2"); err == nil {
		t.Error("cloned without the password")
	}
	for path, want := range map[string]int{
		"/team/app.git/info/refs?service=git-upload-pack":  http.StatusOK,
		"/team/app.git/info/refs?service=git-receive-pack": http.StatusForbidden,
		"/absent.git/info/refs?service=git-upload-pack":    http.StatusNotFound,
		"/../../etc/passwd": http.StatusInternalServerError, // as http-backend refuses it
	} {
		r, err := http.NewRequest(http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("u", "p")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
}
