package gitsource

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"
)

// Remote is where a repository is. Its user may be part of the address; a password never is.
type Remote struct {
	Scheme string // https, http or ssh
	User   string
	Host   string // without a port
	Port   string // empty for the scheme's own
	// as it goes over the wire: escaped for HTTP, plain for SSH, there without a leading slash when relative to the
	// user's home
	Path string
}

// ParseRemote reads a repository's URL: https, http, ssh, or the scp-like user@host:path.
func ParseRemote(raw string) (Remote, error) {
	fail := func(why string) (Remote, error) { return Remote{}, errors.New(why) }
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fail("has a space or control character")
	}
	if !strings.Contains(raw, "://") {
		return parseSCP(raw)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fail("is not a URL") // its error would repeat the URL, and whatever is hidden in it
	}
	if _, has := u.User.Password(); has {
		return fail("carries a password; credentials belong in the secret")
	}
	r := Remote{Scheme: u.Scheme, User: u.User.Username(), Host: strings.ToLower(u.Hostname()), Port: u.Port()}
	switch u.Scheme {
	case "https", "http":
		r.Path = strings.TrimRight(u.EscapedPath(), "/")
	case "ssh":
		r.Path = u.Path
		if strings.HasPrefix(r.Path, "/~") {
			r.Path = r.Path[1:] // ssh://host/~user/x: relative to that user's home, as git has it
		}
	default:
		return fail(fmt.Sprintf("has the scheme %q; there are https, http and ssh", u.Scheme))
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return fail("has a query or fragment")
	}
	return r.checked()
}

func parseSCP(raw string) (Remote, error) {
	host, path, found := strings.Cut(raw, ":")
	if strings.HasPrefix(raw, "[") || strings.Contains(raw, "@[") { // [::1]:path
		end := strings.Index(raw, "]:")
		found = end > 0
		if found {
			host, path = raw[:end+1], raw[end+2:]
		}
	}
	if !found || strings.Contains(host, "/") {
		return Remote{}, errors.New("is neither a URL nor host:path")
	}
	r := Remote{Scheme: "ssh", Host: host, Path: path}
	user, rest, ok := strings.Cut(host, "@")
	switch {
	case ok:
		r.User, r.Host = user, rest
	case strings.Contains(path, "@"): // user:password@host:path
		return Remote{}, errors.New("carries a password; credentials belong in the secret")
	}
	r.Host = strings.ToLower(strings.Trim(r.Host, "[]"))
	return r.checked()
}

func (r Remote) checked() (Remote, error) {
	switch {
	case r.Host == "" || strings.HasPrefix(r.Host, "-") || strings.ContainsAny(r.Host, "/@%\\"):
		return Remote{}, errors.New("has no valid host")
	case strings.HasPrefix(r.User, "-"):
		return Remote{}, errors.New("has no valid user")
	case strings.Trim(r.Path, "/") == "" || strings.HasPrefix(r.Path, "-"):
		return Remote{}, errors.New("has no valid path")
	case strings.ContainsAny(r.Path+r.User, "\x00\r\n"):
		return Remote{}, errors.New("has a control character")
	}
	return r, nil
}

// String is the remote as a URL, without its user: for people, and for .git/config.
func (r Remote) String() string {
	return r.Scheme + "://" + r.authority() + "/" + strings.TrimPrefix(r.Path, "/")
}

func (r Remote) authority() string {
	host := r.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if r.Port != "" {
		host += ":" + r.Port
	}
	return host
}

// address is what to dial.
func (r Remote) address() string {
	port := r.Port
	if port == "" {
		port = map[string]string{"https": "443", "http": "80", "ssh": "22"}[r.Scheme]
	}
	return net.JoinHostPort(r.Host, port)
}

// Rewrite returns the remote that an SSH key is used with (docs/contract.md section 5): https://host/path becomes
// git@host:path.git, and an ssh:// URL of AWS CodeCommit gets the key's id as its user. AWS CodeCommit's https:// URLs
// have no SSH twin of that form and stay; those of Azure DevOps have one on another host.
func (r Remote) Rewrite(keyID string) Remote {
	switch {
	case r.Scheme == "https" && r.isCodeCommit():
		return r
	case r.Scheme == "https":
		plain, err := url.PathUnescape(strings.Trim(r.Path, "/"))
		if err != nil || strings.ContainsAny(plain, "\x00\r\n") || strings.HasPrefix(plain, "-") {
			return r
		}
		if azure, ok := r.azure(plain); ok {
			return azure
		}
		return Remote{Scheme: "ssh", User: defaultUser, Host: r.Host, Path: strings.TrimSuffix(plain, ".git") + ".git"}
	case r.Scheme == "ssh" && r.User == "" && r.isCodeCommit():
		r.User = keyID
	}
	if r.Scheme == "ssh" && r.User == "" {
		r.User = defaultUser
	}
	return r
}

// defaultUser is who logs in when neither URL nor secret say.
const defaultUser = "git"

func (r Remote) isCodeCommit() bool {
	return strings.HasPrefix(r.Host, "git-codecommit.") && (strings.HasSuffix(r.Host, ".amazonaws.com") ||
		strings.HasSuffix(r.Host, ".amazonaws.com.cn"))
}

// azure turns dev.azure.com/ORG/PROJECT/_git/REPO, and its older form ORG.visualstudio.com/PROJECT/_git/REPO, into
// their SSH form.
func (r Remote) azure(path string) (Remote, bool) {
	parts := strings.Split(path, "/")
	host := "ssh.dev.azure.com"
	if org, ok := strings.CutSuffix(r.Host, ".visualstudio.com"); ok {
		parts, host = append([]string{org}, parts...), "vs-ssh.visualstudio.com"
	} else if r.Host != "dev.azure.com" {
		return Remote{}, false
	}
	if len(parts) != 4 || parts[2] != "_git" {
		return Remote{}, false
	}
	return Remote{Scheme: "ssh", User: defaultUser, Host: host,
		Path: strings.Join([]string{"v3", parts[0], parts[1], parts[3]}, "/")}, true
}

// sameServer tells whether credentials for r may be sent to other.
func (r Remote) sameServer(other Remote) bool {
	return r.Scheme == other.Scheme && r.address() == other.address()
}

// submodule is where a submodule of r is whose URL in .gitmodules is raw: relative to r, as git has it, or a URL of its
// own.
func (r Remote) submodule(raw string) (Remote, error) {
	if !strings.HasPrefix(raw, "./") && !strings.HasPrefix(raw, "../") {
		return ParseRemote(raw)
	}
	base := path.Join("/", r.Path)
	joined := base
	for part := range strings.SplitSeq(raw, "/") {
		switch part {
		case "", ".":
		case "..":
			if joined == "/" {
				return Remote{}, errors.New("leads above the server's root")
			}
			joined = path.Dir(joined)
		default:
			joined = path.Join(joined, part)
		}
	}
	if !strings.HasPrefix(r.Path, "/") {
		joined = strings.TrimPrefix(joined, "/")
	}
	r.Path = joined
	return r.checked()
}
