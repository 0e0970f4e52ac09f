package attacks

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/stepwright/stepwright/internal/devserver/devgit"
	"github.com/stepwright/stepwright/internal/outcome"
)

const gitCanary = "canary-git-7d21f0"

// gitTrap is a Git server of an attacker: it asks for credentials, and notes all that it is told.
type gitTrap struct {
	*httptest.Server
	mu   sync.Mutex
	told []string
}

func newGitTrap(t *testing.T, challenges ...string) *gitTrap {
	return newGitTrapFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range challenges {
			w.Header().Add("WWW-Authenticate", c)
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
}

func newGitTrapFor(t *testing.T, answer http.Handler) *gitTrap {
	trap := &gitTrap{}
	trap.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		_, password, _ := r.BasicAuth()
		trap.mu.Lock()
		trap.told = append(trap.told, fmt.Sprint(r.URL, r.Header, password, string(body)))
		trap.mu.Unlock()
		answer.ServeHTTP(w, r)
	}))
	t.Cleanup(trap.Close)
	return trap
}

// caught tells whether the trap was told the secret.
func (s *gitTrap) caught() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.told, "\n"), gitCanary)
}

func (s *gitTrap) address() string { return strings.TrimPrefix(s.URL, "http://") }

func (s *gitTrap) port() string {
	_, port, _ := net.SplitHostPort(s.address())
	return port
}

// gitSecret is a mounted secret for these hosts.
func gitSecret(t *testing.T, hosts string) string {
	dir := t.TempDir()
	write(t, dir, map[string]string{"username": "victim", "password": gitCanary, "git-hosts": hosts})
	return dir
}

// checkout runs the step against a URL.
func gitCheckout(t *testing.T, url string, flags ...string) ending {
	t.Helper()
	return step(t, "checkout-source", append([]string{
		"--git-repo=" + url, "--branch=main", "--workspace=" + t.TempDir(), "--max-attempts=1",
	}, flags...)...)
}

// A secret of the namespace is not sent to the URL that stands beside it, however that is written.
func TestSecretForAnotherHost(t *testing.T) {
	trap := newGitTrap(t, `Basic realm="Git"`)
	at := trap.address()
	for _, hosts := range []string{"git.example.com", "127.0.0.1", "127.0.0.1:443", ""} {
		for _, url := range []string{
			"http://" + at + "/x", "http://github.com@" + at + "/x", "http://git.example.com@" + at + "/x",
			"http://" + at + "/git.example.com/x.git", "http://localhost:" + trap.port() + "/x",
			"http://LOCALHOST:" + trap.port() + "/x", "http://localhost.:" + trap.port() + "/x",
			"http://0.0.0.0:" + trap.port() + "/x", "http://[::ffff:127.0.0.1]:" + trap.port() + "/x",
			"http://[::1]:" + trap.port() + "/x", "http://127.1:" + trap.port() + "/x",
			"http://2130706433:" + trap.port() + "/x", "http://git.example.com:80@" + at + "/x",
			"http://\uff11\uff12\uff17.0.0.1:" + trap.port() + "/x", "http://127.0.0.1\u3002:" + trap.port() + "/x",
			"http://" + at + "\\@git.example.com/x", "http://" + at + "/x?@git.example.com",
		} {
			got := gitCheckout(t, url, "--git-secret-dir="+gitSecret(t, hosts), "--insecure-git-http=true")
			if got.code == 0 || trap.caught() {
				t.Fatalf("%s with a secret for %q: code %d\n%s", url, hosts, got.code, got.stderr)
			}
			if strings.Contains(got.stderr+got.stdout, gitCanary) {
				t.Errorf("the log has the secret: %s", got.stderr)
			}
		}
	}
	if len(trap.told) == 0 {
		t.Fatal("nothing reached the trap")
	}
	gitCheckout(t, trap.URL+"/x", "--git-secret-dir="+gitSecret(t, "git.example.com, "+at))
	if !trap.caught() {
		t.Error("the trap does not catch what is meant for it")
	}
}

// A secret without a word on its hosts goes to those of the plane's setting only, whose default are public forges.
func TestSecretWithoutHosts(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"password": gitCanary})
	for _, setting := range []string{"", "--git-secret-hosts=", "--git-secret-hosts=git.example.com,127.0.0.1"} {
		trap := newGitTrap(t, "Basic")
		flags := []string{"--git-secret-dir=" + dir}
		if setting != "" {
			flags = append(flags, setting)
		}
		gitCheckout(t, trap.URL+"/x", flags...).refused(
			t, outcome.AuthenticationFailed, "not sent to "+trap.address(), "git-secret-hosts",
		)
		if trap.caught() {
			t.Errorf("%s: the secret was sent", setting)
		}
	}
}

// Nothing but a list of hosts is one, and a list that cannot be read is for no host.
func TestListsOfHosts(t *testing.T) {
	trap := newGitTrap(t, "Basic")
	for _, hosts := range []string{
		"*", "*:*", "*:" + trap.port(), "*.*", "**", "*.1", "127.0.0.1:", "http://" + trap.address(),
		trap.address() + "/", "x@" + trap.address(), "127.0.0.1 :" + trap.port(),
		"127.0.0.1;" + trap.address(), "127.0.0.*:*",
		"/", "{{ .password }}", "0/0", "127.0.0.1/8:*", ".", "..", ":", "\x00" + trap.address() + "\x00x",
		"!git.example.com", strings.Repeat("a,", 1000) + "127.0.0.1", "127.0.0.1:" + trap.port() + "0",
	} {
		got := gitCheckout(t, trap.URL+"/x", "--git-secret-dir="+gitSecret(t, hosts))
		if got.report.Reason != outcome.AuthenticationFailed || trap.caught() {
			t.Fatalf("%q: %s %s", hosts, got.report.Reason, got.report.Message)
		}
	}
}

// Redirects lead the request away, and the secret stays.
func TestSecretAlongRedirects(t *testing.T) {
	trap := newGitTrap(t, "Basic")
	for name, to := range map[string]string{
		"another port": trap.URL, "another name": "http://localhost:" + trap.port(),
		"a user": "http://victim@" + trap.address(), "not this machine": "http://0.0.0.0:" + trap.port(),
	} {
		for _, ask := range []bool{false, true} {
			forge := newGitTrapFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if _, _, shown := r.BasicAuth(); ask && !shown {
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				http.Redirect(w, r, to+r.URL.String(), http.StatusFound)
			}))
			got := gitCheckout(
				t, forge.URL+"/x.git", "--git-secret-dir="+gitSecret(t, forge.address()), "--insecure-git-http=true",
			)
			if got.code == 0 || trap.caught() || forge.caught() != ask {
				t.Errorf("%s: code %d, %s", name, got.code, got.report.Message)
			}
		}
	}
}

// A secret goes over plain HTTP to this machine only, unless somebody says otherwise.
func TestSecretOverPlainHTTP(t *testing.T) {
	for _, challenge := range []string{"Basic", `Digest realm="x", Basic`} {
		trap := newGitTrap(t, challenge)
		url := "http://0.0.0.0:" + trap.port() + "/x" // reaches this machine, and is none of its own addresses
		flag := "--git-secret-dir=" + gitSecret(t, "0.0.0.0:*")
		gitCheckout(t, url, flag).refused(t, outcome.AuthenticationFailed, "plain HTTP")
		if trap.caught() {
			t.Fatal("the secret was sent")
		}
		if gitCheckout(t, url, flag, "--insecure-git-http=true"); !trap.caught() {
			t.Error("with permission it was not sent")
		}
	}
}

// A server that takes no password gets none.
func TestChallengesForNoPassword(t *testing.T) {
	for _, challenges := range [][]string{
		{"NTLM"}, {"Negotiate"}, {"Negotiate", "NTLM"}, {`Bearer realm="basic"`}, {`Digest realm="x", nonce="basic"`},
		{`Bearer`, `Digest nonce=" basic "`},
	} {
		trap := newGitTrap(t, challenges...)
		gitCheckout(t, trap.URL+"/x", "--git-secret-dir="+gitSecret(t, "127.0.0.1:*")).refused(
			t, outcome.AuthenticationFailed, "Basic only",
		)
		if trap.caught() {
			t.Errorf("%q: the secret was sent", challenges)
		}
	}
}

// A key is offered to no server that it is not for: there is not even a connection.
func TestKeyForAnotherHost(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connected := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connected <- struct{}{}
			conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	for _, hosts := range []string{"github.com", "127.0.0.1", "127.0.0.1:22", "localhost:*"} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"ssh-privatekey": sshKey(t), "git-hosts": hosts})
		for _, url := range []string{
			"ssh://git@127.0.0.1:" + port + "/x", "ssh://github.com@127.0.0.1:" + port + "/x",
			"ssh://127.0.0.1:" + port + "/github.com/x",
		} {
			gitCheckout(t, url, "--git-secret-dir="+dir, "--git-timeout=5").refused(
				t, outcome.AuthenticationFailed, "not sent to 127.0.0.1:"+port,
			)
		}
	}
	select {
	case <-connected:
		t.Error("it connected")
	default:
	}
}

// honestGit serves repositories that a stranger wrote, to those who show the secret.
func honestGit(t *testing.T, root string) *gitTrap {
	return newGitTrapFor(t, &devgit.Handler{Root: root, Username: "victim", Password: gitCanary})
}

// What a repository names, a submodule's server or one for LFS, gets no secret, although it is private like the
// repository, on the same machine, and has a name that looks alike.
func TestSecretForWhatARepositoryNames(t *testing.T) {
	root := t.TempDir()
	server := honestGit(t, root)
	trap := newGitTrap(t, "Basic")
	const module, pointer = "[submodule \"a\"]\n\tpath = lib\n\turl = ", "version https://git-lfs.github.com/spec/v1\n"
	lookAlike := "http://127.0.0.1:" + server.port() + "@" + trap.address()
	commit := strings.Repeat("ab", 20)
	for name, files := range map[string]map[string]string{
		"submodule":            {".gitmodules": module + trap.URL + "/x.git\n"},
		"submodule-look-alike": {".gitmodules": module + lookAlike + "/x.git\n"},
		"submodule-key":        {".gitmodules": module + "ssh://git@" + trap.address() + "/x\n"},
		"lfs":                  {".lfsconfig": "[lfs]\n\turl = " + trap.URL + "/lfs\n"},
		"lfs-look-alike":       {".lfsconfig": "[lfs]\n\turl = " + lookAlike + "/lfs\n"},
		"lfs-plain-name":       {".lfsconfig": "[lfs]\n\turl = http://localhost:" + trap.port() + "/lfs\n"},
		"lfs-of-the-remote":    {".lfsconfig": "[remote \"origin\"]\n\tlfsurl = " + trap.URL + "/lfs\n"},
	} {
		folder := t.TempDir()
		files[".gitattributes"] = "*.bin filter=lfs\n"
		files["a.bin"] = pointer + "oid sha256:" + strings.Repeat("ab", 32) + "\nsize 3\n"
		if _, ok := files[".gitmodules"]; ok {
			delete(files, "a.bin") // which would fail first
		}
		write(t, folder, files)
		bare := filepath.Join(root, name+".git")
		if _, err := devgit.Import(t.Context(), folder, bare, name, time.Unix(1_700_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(name, "submodule") {
			git := func(stdin string, args ...string) string {
				out, err := devgit.Git(
					t.Context(), bare,
					append(devgit.Identity(time.Unix(1_700_000_000, 0)), "GIT_INDEX_FILE="+bare+"/i"),
					strings.NewReader(stdin), args...,
				)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			git("", "read-tree", "main")
			git("", "update-index", "--add", "--cacheinfo", "160000,"+commit+",lib")
			git("", "update-ref", "refs/heads/main", git("", "commit-tree", "-m", "x", git("", "write-tree")))
		}
		got := gitCheckout(
			t, server.URL+"/"+name+".git", "--git-secret-dir="+gitSecret(t, server.address()), "--submodules=true",
			"--lfs=true", "--insecure-git-http=true",
		)
		if got.code == 0 || trap.caught() || !server.caught() {
			t.Errorf("%s: code %d, %s", name, got.code, got.report.Message)
		}
	}
}

// hostileGit is a Git server that answers with these references and this pack.
func hostileGit(t *testing.T, refs, pack func(io.Writer)) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			io.WriteString(w, "001e# service=git-upload-pack\n0000")
			refs(w)
			return
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		io.WriteString(w, "00000008NAK\n")
		pack(w)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/x.git"
}

// oneRef advertises one commit as main.
func oneRef(commit [20]byte) func(io.Writer) {
	return func(w io.Writer) {
		gitPacket(w, fmt.Sprintf("%x refs/heads/main\x00shallow side-band-64k\n", commit), "0000")
	}
}

func gitPacket(w io.Writer, line, after string) error {
	_, err := fmt.Fprintf(w, "%04x%s%s", len(line)+4, line, after)
	return err
}

// packBand sends a pack, and the checksum that nobody looks at.
func packBand(pack []byte) func(io.Writer) {
	return func(w io.Writer) {
		for part := range slices.Chunk(append(pack, make([]byte, 20)...), 60_000) {
			gitPacket(w, "\x01"+string(part), "")
		}
		io.WriteString(w, "0000")
	}
}

const (
	commitObject = 1
	treeObject   = 2
	blobObject   = 3
	refDelta     = 7
)

// packBuilder makes a pack.
type packBuilder struct {
	bytes.Buffer
	count uint32
}

// add adds an object, or a delta of base, and returns the object's name.
func (b *packBuilder) add(kind int, base *[20]byte, content []byte) [20]byte {
	b.count++
	size := len(content)
	first := byte(kind<<4 | size&15)
	for size >>= 4; size > 0; size >>= 7 {
		b.WriteByte(first | 0x80)
		first = byte(size & 0x7f)
	}
	b.WriteByte(first)
	if base != nil {
		b.Write(base[:])
	}
	z := zlib.NewWriter(b)
	z.Write(content)
	z.Close()
	name := map[int]string{commitObject: "commit", treeObject: "tree", blobObject: "blob"}[kind]
	return sha1.Sum(append(fmt.Appendf(nil, "%s %d\x00", name, len(content)), content...))
}

func (b *packBuilder) pack() []byte {
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), b.count)
	return append(head, b.Bytes()...)
}

// commit adds a commit of a tree.
func (b *packBuilder) commit(tree [20]byte) [20]byte {
	return b.add(commitObject, nil, fmt.Appendf(
		nil, "tree %x\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nx\n", tree,
	))
}

// deltaCopies is a delta that copies its whole base of that size several times, and adds a text.
func deltaCopies(base, times int, text string) []byte {
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(base)), uint64(base*times+len(text)))
	for range times {
		for at := 0; at < base; at += 1 << 23 {
			n := min(1<<23, base-at)
			delta = append(
				delta, 0xff, byte(at), byte(at>>8), byte(at>>16), byte(at>>24), byte(n), byte(n>>8), byte(n>>16),
			)
		}
	}
	if text == "" {
		return delta
	}
	return append(append(delta, byte(len(text))), text...)
}

// zerosAnd is the name of a blob of zeros, with a text at its end.
func zerosAnd(size int, text string) (name [20]byte) {
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", size+len(text))
	part := make([]byte, 1<<20)
	for left := size; left > 0; left -= len(part) {
		part = part[:min(left, len(part))]
		h.Write(part)
	}
	io.WriteString(h, text)
	return [20]byte(h.Sum(nil))
}

// mostMemory is what no server may make the step use. The pod has 1 GiB.
const mostMemory = 512 << 20

func (e ending) within(t *testing.T, name string, began time.Time) {
	t.Helper()
	peak := e.report.PeakMemoryBytes
	t.Logf("%s: %d MiB, %s: %s", name, peak>>20, time.Since(began).Round(time.Millisecond), e.report.Message)
	if peak > mostMemory {
		t.Errorf("%s takes %d MiB", name, peak>>20)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("%s takes %s", name, took)
	}
}

// A few hundred kilobytes of deltas of deltas, each with a second one so that all must be kept, take no memory to speak
// of.
func TestNestedDeltas(t *testing.T) {
	for name, shape := range map[string]struct{ size, chains, levels int }{
		"chains that double":          {1 << 10, 4, 18},
		"a chain that stays as it is": {64 << 20, 1, 18},
		"small long chains":           {1 << 20, 8, 140},
	} {
		var b packBuilder
		tree := b.add(treeObject, nil, nil)
		commit := b.commit(tree)
		for chain := range shape.chains {
			size := shape.size + chain
			at := b.add(blobObject, nil, make([]byte, size))
			for level := range shape.levels {
				b.add(refDelta, &at, deltaCopies(size, 1, "side")) // is followed after the other
				times, more := 2, 0
				if shape.size >= 1<<20 {
					times, more = 1, level+1
				}
				delta := deltaCopies(size, times, "")
				if more > 0 { // one more zero at the end
					delta = deltaCopies(size, 1, "\x00")
				}
				b.add(refDelta, &at, delta)
				if size = size*times + min(more, 1); size > 256<<20 {
					break
				}
				at = zerosAnd(size, "")
			}
		}
		pack := b.pack()
		began := time.Now()
		got := gitCheckout(t, hostileGit(t, oneRef(commit), packBand(pack)))
		got.within(t, fmt.Sprintf("%s (%d KB)", name, len(pack)>>10), began)
		if got.code != 0 && got.report.Reason != outcome.RepositoryInvalid {
			t.Errorf("%s: %s: %s", name, got.report.Reason, got.report.Message)
		}
	}
}

// Trees within trees, each with names without number.
func TestNestedTrees(t *testing.T) {
	var b packBuilder
	var junk bytes.Buffer
	hash := make([]byte, 20)
	for i := range 300_000 {
		fmt.Fprintf(&junk, "100644 z%06d\x00%s", i, hash)
	}
	tree := b.add(treeObject, nil, nil)
	for range 30 {
		tree = b.add(treeObject, nil, append(fmt.Appendf(nil, "40000 a\x00%s", tree[:]), junk.Bytes()...))
	}
	began := time.Now()
	got := gitCheckout(t, hostileGit(t, oneRef(b.commit(tree)), func(w io.Writer) { packBand(b.pack())(w) }))
	got.within(t, fmt.Sprintf("nested trees (%d KB)", b.Len()>>10), began)
	got.refused(t, outcome.RepositoryInvalid, "more than")
}

// What a server says before its pack has an end, and so has the pack.
func TestEndlessAnswers(t *testing.T) {
	zero := strings.Repeat("0", 40)
	again := func(line func(i int) string) func(io.Writer) {
		return func(w io.Writer) {
			for i := 0; gitPacket(w, line(i), "") == nil; i++ {
			}
		}
	}
	var some packBuilder
	commit := some.commit(some.add(treeObject, nil, nil))
	for name, server := range map[string]struct{ refs, pack func(io.Writer) }{
		"references": {refs: again(func(i int) string { return fmt.Sprintf("%s refs/heads/%d", zero, i) })},
		"long references": {refs: again(func(i int) string {
			return fmt.Sprintf("%s refs/heads/%060000d", zero, i)
		})},
		"capabilities": {refs: func(w io.Writer) {
			gitPacket(w, "version 2\n", "")
			again(func(i int) string { return fmt.Sprintf("c%d", i) })(w)
		}},
		"progress": {oneRef(commit), again(func(int) string { return "\x02" + strings.Repeat("x\n", 30_000) })},
		"silence":  {oneRef(commit), again(func(int) string { return "\x01" })},
		"an object that unpacks without end": {oneRef(commit), func(w io.Writer) {
			head := "PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf" + strings.Repeat("\xff", 5) + "\x7f"
			gitPacket(w, "\x01"+head, "")
			// Zeros as a block that may follow itself: the test has less to do than the step then.
			var stream bytes.Buffer
			z := zlib.NewWriter(&stream)
			block := func() string {
				stream.Reset()
				z.Write(make([]byte, 16<<20))
				z.Flush()
				return stream.String()
			}
			gitPacket(w, "\x01"+block(), "")
			for same := "\x01" + block(); gitPacket(w, same, "") == nil; {
			}
		}},
	} {
		began := time.Now()
		got := gitCheckout(t, hostileGit(t, server.refs, server.pack))
		got.within(t, name, began)
		got.refused(t, outcome.RepositoryInvalid)
	}
}

// An answer that is compressed is no way around the bounds, nor are heads and pages without end.
func TestEndlessHTTP(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"compressed references": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			for line := strings.Repeat("0", 40) + " refs/heads/" + strings.Repeat("a", 60_000); ; {
				if gitPacket(z, line, "") != nil {
					return
				}
			}
		},
		"headers": func(w http.ResponseWriter, _ *http.Request) {
			for i := range 5_000 {
				w.Header().Add(fmt.Sprintf("X-%d", i), strings.Repeat("x", 1000))
			}
		},
		"a page": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusNotFound)
			for page := strings.Repeat("x", 1<<16); r.Context().Err() == nil; {
				if _, err := io.WriteString(w, page); err != nil {
					return
				}
			}
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"x/"+strings.Repeat("y", 1000), http.StatusFound)
		},
	} {
		server := httptest.NewServer(answer)
		began := time.Now()
		got := gitCheckout(t, server.URL+"/x.git")
		server.CloseClientConnections()
		server.Close()
		got.within(t, name, began)
		if got.code == 0 {
			t.Errorf("%s: it succeeded", name)
		}
	}
}

// sshKey is a private key that nobody knows.
func sshKey(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}
