package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Login is a Gate that shows the registry credentials when it asks for them: the credentials themselves, or a token of
// the server that the registry names. Other hosts, to which the registry leads, see neither. The token server may have
// a private address, as it has for registries of a company's own: the platform, or the user's Dockerfile, named the
// registry. Set its fields before its first use.
type Login struct {
	Gate
	// Find returns the credentials for a repository, given with its host; only the host is given where a request is
	// for none.
	Find   func(repository string) (authn.Authenticator, error)
	Scopes []string // of every token; empty to pull from the repository that a request is for
	Extra  []string // scopes that only save work: they are given up when the token server refuses them

	mu     sync.Mutex
	demand *challenge // nil until the registry asks
	tokens map[string]token
}

// challenge is what a registry wants to see (RFC 9110 section 11.3).
type challenge struct {
	scheme     string // in small letters
	parameters map[string]string
}

type token struct {
	value string
	until time.Time // zero when it does not say
}

// Connect finds out what the registry wants to see, and gets the token that all requests with these Scopes need. The
// error is a Fault, or the context's.
func (l *Login) Connect(ctx context.Context) error {
	at := url.URL{Scheme: l.Scheme(), Host: l.Host, Path: "/v2/"}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: &l.Gate}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	fault := answered(l.Host, response.StatusCode, diagnostics(response.Body))
	if response.StatusCode != http.StatusUnauthorized || !l.learn(response.Header) {
		fault.Kind = fault.kind(request)
		return fault
	}
	_, err = l.show(request, "", "")
	return err
}

// RoundTrip implements http.RoundTripper.
func (l *Login) RoundTrip(request *http.Request) (*http.Response, error) {
	if !l.isOwn(request.URL) {
		return l.Gate.RoundTrip(request)
	}
	shown, err := l.show(request, "", "")
	if err != nil {
		return nil, errors.Join(closeBody(request), err)
	}
	response, err := l.send(request, shown)
	if err != nil || response.StatusCode != http.StatusUnauthorized || !l.learn(response.Header) {
		return response, err
	}
	if strings.Trim(request.URL.Path, "/") == "v2" && len(l.Scopes) == 0 {
		// A registry is there, and no repository is asked for yet: that is all that an asker wants to know.
		response.Body.Close()
		response.StatusCode, response.Status, response.Body = http.StatusOK, "200 OK", http.NoBody
		return response, nil
	}
	again, err := l.show(request, shown, scopeOf(response.Header))
	if err != nil {
		return nil, errors.Join(response.Body.Close(), err)
	}
	if again == "" || again == shown {
		return response, nil
	}
	response.Body.Close()
	return l.send(request, again)
}

// isOwn tells whether a URL is of the registry itself.
func (l *Login) isOwn(at *url.URL) bool {
	port := map[string]string{"http": ":80", "https": ":443"}[l.Scheme()]
	return strings.TrimSuffix(at.Host, port) == strings.TrimSuffix(l.Host, port)
}

func (l *Login) send(request *http.Request, authorization string) (*http.Response, error) {
	if authorization == "" {
		return l.Gate.RoundTrip(request)
	}
	out := request.Clone(request.Context())
	out.Header.Set("Authorization", authorization)
	return l.Gate.RoundTrip(out)
}

// learn keeps what the registry asks for. It returns false when that is nothing that can be shown.
func (l *Login) learn(header http.Header) bool {
	demand := demanded(header)
	if demand == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.demand = demand
	return true
}

// show returns the header that lets a request pass, other than the one that was refused; empty when there is none. A
// token is for one scope more if the registry asked for it.
func (l *Login) show(request *http.Request, refused, scope string) (string, error) {
	l.mu.Lock() // also while a token is on its way, for which others wait rather than asking, too
	defer l.mu.Unlock()
	if l.demand == nil {
		return "", nil
	}
	repository := RepositoryOf(request.URL.Path)
	found, err := l.Find(strings.TrimSuffix(l.Host+"/"+repository, "/"))
	if err != nil {
		return "", err
	}
	credentials, err := authn.Authorization(request.Context(), found)
	if err != nil {
		return "", err
	}
	if credentials.RegistryToken != "" {
		return "Bearer " + credentials.RegistryToken, nil
	}
	if l.demand.scheme == "basic" {
		if credentials.Username == "" && credentials.Password == "" {
			return "", nil
		}
		return "Basic " + pair(credentials), nil
	}
	scopes := l.Scopes
	if len(scopes) == 0 && repository != "" {
		scopes = []string{"repository:" + repository + ":pull"}
	}
	scopes = slices.Clip(scopes)
	if scope != "" && !covered(scope, append(scopes, l.Extra...)) {
		scopes = append([]string{scope}, scopes...)
	}
	key := strings.Join(scopes, " ")
	if t, ok := l.tokens[key]; ok && "Bearer "+t.value != refused && (t.until.IsZero() || time.Now().Before(t.until)) {
		return "Bearer " + t.value, nil
	}
	t, err := l.fetch(request.Context(), credentials, append(scopes, l.Extra...))
	if fault := (*Fault)(nil); errors.As(err, &fault) && fault.Kind != Unavailable && len(l.Extra) > 0 {
		l.Extra = nil
		t, err = l.fetch(request.Context(), credentials, scopes)
	}
	if err != nil {
		return "", err
	}
	if l.tokens == nil {
		l.tokens = map[string]token{}
	}
	l.tokens[key] = t
	return "Bearer " + t.value, nil
}

func pair(credentials *authn.AuthConfig) string {
	return base64.StdEncoding.EncodeToString([]byte(credentials.Username + ":" + credentials.Password))
}

// covered tells whether scopes have all that one more scope is for.
func covered(scope string, scopes []string) bool {
	resource, actions := cutScope(scope)
	return slices.ContainsFunc(scopes, func(s string) bool {
		r, has := cutScope(s)
		return r == resource && !slices.ContainsFunc(actions, func(a string) bool { return !slices.Contains(has, a) })
	})
}

// cutScope splits type:name:action,action.
func cutScope(scope string) (resource string, actions []string) {
	i := strings.LastIndex(scope, ":")
	if i < 0 {
		return scope, nil
	}
	return scope[:i], strings.Split(scope[i+1:], ",")
}

// RepositoryOf returns the repository that the path of a URL of a registry is about; empty if it is about none (OCI
// distribution specification).
func RepositoryOf(path string) string {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return ""
	}
	for _, kind := range []string{"/manifests/", "/blobs/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(rest, kind); i > 0 {
			return rest[:i]
		}
	}
	return ""
}

// maxToken is the most of a token server's answer that is read, in bytes.
const maxToken = 64 << 10

// fetch gets a token (distribution's token authentication, and its variant by OAuth 2 for those who have a token of the
// server's already).
func (l *Login) fetch(ctx context.Context, credentials *authn.AuthConfig, scopes []string) (token, error) {
	realm, err := url.Parse(l.demand.parameters["realm"])
	if err != nil || realm.Host == "" {
		return token{}, &Fault{Host: l.Host, Cause: errors.New("it names no token server")}
	}
	fail := func(kind Kind, status int, cause error) (token, error) {
		return token{}, &Fault{Kind: kind, Host: l.Host, TokenServer: realm.Host, Status: status, Cause: cause}
	}
	if isLinkLocal(realm.Hostname()) {
		return fail(Refused, 0, errors.New("no token server has a link-local address"))
	}
	service := l.demand.parameters["service"]
	response, err := l.ask(ctx, realm, service, scopes, credentials)
	if err == nil && credentials.IdentityToken != "" && response.StatusCode == http.StatusNotFound {
		response.Body.Close() // it knows no OAuth
		response, err = l.ask(ctx, realm, service, scopes, &authn.AuthConfig{
			Username: credentials.Username, Password: credentials.Password,
		})
	}
	if err != nil {
		if ctx.Err() != nil {
			return token{}, context.Cause(ctx)
		}
		fault := *FaultOf(l.Host, err)
		fault.Host, fault.TokenServer = l.Host, realm.Host
		return token{}, &fault
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return fail(Denied, response.StatusCode, nil)
	default:
		return fail(Refused, response.StatusCode, nil)
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxToken))
	if err != nil {
		return fail(Unavailable, 0, errBroken{})
	}
	t, ok := readToken(raw, time.Now())
	if !ok {
		return fail(Unknown, 0, errors.New("there is no token in its answer"))
	}
	return t, nil
}

// longestLife bounds a token's life, which a Duration could not hold otherwise.
const longestLife = 365 * 24 * time.Hour

// readToken reads a token server's answer.
func readToken(raw []byte, now time.Time) (token, bool) {
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"` // seconds
	}
	if json.Unmarshal(raw, &answer) != nil || answer.Token == "" && answer.AccessToken == "" {
		return token{}, false
	}
	t := token{value: cmp.Or(answer.Token, answer.AccessToken)}
	if answer.ExpiresIn > 0 {
		life := min(answer.ExpiresIn*0.9, longestLife.Seconds())
		t.until = now.Add(time.Duration(life * float64(time.Second)))
	}
	return t, true
}

// ask sends the token server one request.
func (l *Login) ask(
	ctx context.Context, realm *url.URL, service string, scopes []string, credentials *authn.AuthConfig,
) (*http.Response, error) {
	at, query := *realm, realm.Query()
	method, form := http.MethodGet, ""
	if credentials.IdentityToken != "" {
		method = http.MethodPost
		form = url.Values{
			"grant_type": {"refresh_token"}, "refresh_token": {credentials.IdentityToken}, "service": {service},
			"scope": {strings.Join(scopes, " ")}, "client_id": {"stepwright"},
		}.Encode()
	} else {
		if service != "" {
			query.Set("service", service)
		}
		query["scope"] = scopes
		at.RawQuery = query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, method, at.String(), strings.NewReader(form))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else if credentials.Username != "" || credentials.Password != "" {
		request.Header.Set("Authorization", "Basic "+pair(credentials))
	}
	return (&http.Client{Transport: &l.Gate}).Do(request)
}

// isLinkLocal tells of an address that only machines of one link have, such as the metadata service of a cloud.
func isLinkLocal(host string) bool {
	at, err := netip.ParseAddr(host)
	return err == nil && (at.Unmap().IsLinkLocalUnicast() || at == netip.MustParseAddr("fd00:ec2::254"))
}

// scopeOf returns the scope that a registry asks for; empty when it does not say.
func scopeOf(header http.Header) string {
	if demand := demanded(header); demand != nil {
		return demand.parameters["scope"]
	}
	return ""
}

// demanded returns the best of the challenges that can be met: a token rather than credentials themselves.
func demanded(header http.Header) (best *challenge) {
	for _, line := range header.Values("WWW-Authenticate") {
		for _, c := range challenges(line) {
			if c.scheme == "bearer" && c.parameters["realm"] != "" {
				return &c
			}
			if c.scheme == "basic" && best == nil {
				best = &c
			}
		}
	}
	return best
}

// challenges reads a header such as: Basic realm="x", Bearer realm="https://…",service="y".
func challenges(line string) (found []challenge) {
	for {
		line = strings.TrimLeft(line, " \t,")
		end := strings.IndexAny(line, " \t,=")
		if end < 0 {
			end = len(line)
		}
		if end == 0 {
			return found
		}
		word, rest := strings.ToLower(line[:end]), strings.TrimLeft(line[end:], " \t")
		if len(found) == 0 || !strings.HasPrefix(rest, "=") {
			found, line = append(found, challenge{scheme: word, parameters: map[string]string{}}), rest
			continue
		}
		found[len(found)-1].parameters[word], line = value(strings.TrimLeft(rest[1:], " \t"))
	}
}

// value reads a token or a quoted string, and returns what follows it.
func value(text string) (value, rest string) {
	if !strings.HasPrefix(text, `"`) {
		end := strings.IndexAny(text, " \t,")
		if end < 0 {
			end = len(text)
		}
		return text[:end], text[end:]
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), text[i+1:]
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
