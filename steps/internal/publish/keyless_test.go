package publish_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/stepwright/stepwright/internal/faulttest"
	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/registry/registrytest"
	"github.com/stepwright/stepwright/internal/verification/sigstoretest"
	"github.com/stepwright/stepwright/steps/internal/publish"
	"github.com/stepwright/stepwright/steps/internal/step"
	"github.com/stepwright/stepwright/steps/internal/workspace"
)

// account is the subject of a service account's token, as Kubernetes names it, and tokenIssuer gives it.
const (
	account     = "system:serviceaccount:workflows-acme:workflow-sa"
	tokenIssuer = "https://kubernetes.default.svc"
)

// identified are parameters that sign with an identity, and its token.
func identified(
	t testing.TB, in publish.Parameters, s *sigstoretest.Sigstore, subject string,
) (_ publish.Parameters, token string) {
	t.Helper()
	token = sigstoretest.Token(t, tokenIssuer, subject)
	in.Signing, in.SigningIdentityTokenFile = "keyless", written(t, []byte(token+"\n"))
	in.FulcioURL, in.InsecureFulcioHTTP = s.FulcioURL, true
	in.TimestampURL, in.RekorURL = s.TimestampURL, s.RekorURL
	return in, token
}

// plain are the parameters for pushing from a workspace to a registry, a host, over plain HTTP.
func plain(host string, w workspace.Workspace) publish.Parameters {
	return publish.Parameters{
		Common: step.Common{Workspace: w}, Registry: host, ImageName: "app", ImageTag: "v1", InsecurePlainHTTP: true,
	}
}

// verifiedBy verifies a bundle about a digest with sigstore's own library, by an identity and the proofs of time that
// the trusted root knows of, if they are wanted.
func verifiedBy(b *bundle.Bundle, trusted []byte, subject, about string, stamped, logged bool) error {
	material, err := root.NewTrustedRootFromJSON(trusted)
	if err != nil {
		return err
	}
	var options []verify.VerifierOption
	if stamped {
		options = append(options, verify.WithSignedTimestamps(1))
	}
	if logged {
		options = append(options, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))
	}
	v, err := verify.NewVerifier(material, options...)
	if err != nil {
		return err
	}
	identity, err := verify.NewShortCertificateIdentity(tokenIssuer, "", sigstoretest.Identity(subject), "")
	if err != nil {
		return err
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(about, "sha256:"))
	if err != nil {
		return err
	}
	_, err = v.Verify(b, verify.NewPolicy(
		verify.WithArtifactDigest("sha256", sum), verify.WithCertificateIdentity(identity),
	))
	return err
}

// An identity signs what a key signs. What it signed so before it does not sign again, and another one does.
func TestKeyless(t *testing.T) {
	t.Parallel()
	const other = "system:serviceaccount:workflows-evil:workflow-sa"
	for kind, test := range map[string]struct{ stamped, logged bool }{
		"a timestamp authority": {true, false}, "a log": {false, true}, "both": {true, true},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, foreign := sigstoretest.WithLog(t), sigstoretest.WithLog(t)
			image := registrytest.RandomImage(t, 2, 1000)
			index := attested(t, image, digest(t, image))
			at := listing(t)
			in, token := identified(t, publish.Parameters{
				Registry: at + "/team", ImageName: "shop-cart", ImageTag: "v1", InsecurePlainHTTP: true,
			}, s, account)
			in.Workspace = built(t, index)
			if !test.stamped {
				in.TimestampURL = ""
			}
			if !test.logged {
				in.RekorURL = ""
			}
			first, logged := mustRun(t, in)
			again, more := mustRun(t, in)
			if !maps.Equal(first, again) || !strings.HasPrefix(first["signature-digest"], "sha256:") {
				t.Errorf("got %v, and then %v", first, again)
			}
			if strings.Contains(logged+more+fmt.Sprint(first), token) {
				t.Errorf("the token is told: %s", logged)
			}
			if !strings.Contains(logged, sigstoretest.Identity(account)) || !strings.Contains(logged, tokenIssuer) {
				t.Errorf("it is not told who signs: %s", logged)
			}
			repository := at + "/team/shop-cart"
			for about, predicates := range map[string][]string{
				digest(t, index): {signPredicate, provenancePredicate}, digest(t, image): {provenancePredicate},
			} {
				bundles := bundlesOf(t, repository, about)
				if got := slices.Sorted(maps.Keys(bundles)); !slices.Equal(got, predicates) {
					t.Fatalf("%s has %q, want %q", about, got, predicates)
				}
				b := bundles[predicates[0]]
				if err := verifiedBy(b, s.Root, account, about, test.stamped, test.logged); err != nil {
					t.Error(err)
				}
				if verifiedBy(b, s.Root, other, about, test.stamped, test.logged) == nil {
					t.Error("another identity verifies it")
				}
				if verifiedBy(b, foreign.Root, account, about, test.stamped, test.logged) == nil {
					t.Error("another sigstore verifies it")
				}
				if verifiedBy(
					b, s.Root, account, "sha256:"+strings.Repeat("0", 64), test.stamped, test.logged,
				) == nil {
					t.Error("it is about another image, too")
				}
			}
			// Neither another identity nor another sigstore takes it for its own, nor does who wants more proof.
			with := func(s *sigstoretest.Sigstore, subject string) publish.Parameters {
				in, _ := identified(t, in, s, subject)
				return in
			}
			for who, in := range map[string]publish.Parameters{
				"identity": with(s, other), "sigstore": with(foreign, account), "proof": with(s, account),
			} {
				second, _ := mustRun(t, in)
				wants := who == "proof" && test.stamped && test.logged // it has both
				if got := second["signature-digest"] == first["signature-digest"]; got != wants {
					t.Errorf("another %s: is it the same signature? %t, want %t", who, got, wants)
				}
			}
		})
	}
}

// changing is a server in front of another one whose answers are changed.
func changing(t testing.TB, target string, change func(body []byte) []byte) string {
	t.Helper()
	to := must[*url.URL](t)(url.Parse(target))
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(&url.URL{Scheme: to.Scheme, Host: to.Host}) },
		ModifyResponse: func(response *http.Response) error {
			body, err := io.ReadAll(response.Body)
			if err != nil {
				return err
			}
			body = change(body)
			response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			response.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	})
	t.Cleanup(server.Close)
	return server.URL + to.Path
}

// endless is a server whose answers do not end.
func endless(t testing.TB, status int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		for r.Context().Err() == nil {
			if _, err := w.Write(bytes.Repeat([]byte("["), 1<<16)); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// saying is a server with one answer.
func saying(t testing.TB, status int, body string) string {
	t.Helper()
	return faulttest.Before(t, "http://127.0.0.1:1", always(
		func(*http.Request) bool { return true }, faulttest.Fault{Status: status, Body: body},
	)).URL
}

// An identity that is not usable is told before anything is pushed, and its token is not.
func TestUnusableIdentity(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	s := sigstoretest.WithLog(t)
	const failed, invalid = outcome.SigningFailed, outcome.InvalidParameters
	expired := sigstoretest.New(t)
	expired.Lifetime = 30 * time.Second
	certificates := func(all ...string) string {
		return string(must[[]byte](t)(json.Marshal(map[string]any{"signedCertificateEmbeddedSct": map[string]any{
			"chain": map[string]any{"certificates": all},
		}})))
	}
	foreign := func() string {
		leaf := s.Certificate(t, ecKey(t, elliptic.P256()).Public(), sigstoretest.Identity(account), tokenIssuer)
		return string(pemOf("CERTIFICATE", leaf.Raw))
	}
	var elsewhere atomic.Int64
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(thief.Close)
	redirecting := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	t.Cleanup(redirecting.Close)
	tests := map[string]struct {
		change func(in *publish.Parameters)
		reason outcome.Reason
		says   string
	}{
		"no Fulcio": {func(in *publish.Parameters) { in.FulcioURL = "" }, invalid, "fulcio-url"},
		"no proof": {func(in *publish.Parameters) {
			in.TimestampURL, in.RekorURL = "", ""
		}, invalid, "wants one"},
		"plain HTTP": {func(in *publish.Parameters) { in.InsecureFulcioHTTP = false }, invalid, "unprotected"},
		"no URL":     {func(in *publish.Parameters) { in.FulcioURL = "https://" }, invalid, "fulcio-url"},
		"a user's URL": {func(in *publish.Parameters) {
			in.RekorURL = "https://u:p@example.com"
		}, invalid, "rekor-url"},
		"no token": {func(in *publish.Parameters) { in.SigningIdentityTokenFile += ".no" }, failed, "there is no"},
		"an empty token": {func(in *publish.Parameters) {
			in.SigningIdentityTokenFile = written(t, nil)
		}, failed, "JWT"},
		"a password": {func(in *publish.Parameters) {
			in.SigningIdentityTokenFile = written(t, []byte("canary-hunter2"))
		}, failed, "JWT"},
		"a token for others": {func(in *publish.Parameters) {
			token := sigstoretest.Token(t, tokenIssuer, account)
			parts := strings.Split(token, ".")
			parts[1] = "eyJpc3MiOiJhIiwic3ViIjoiYTpiOmM6ZCIsImF1ZCI6WyJrdWJlcm5ldGVzIl19" // aud: kubernetes
			in.SigningIdentityTokenFile = written(t, []byte(strings.Join(parts, ".")))
		}, failed, "401"},
		"403": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, http.StatusForbidden, `{"code":7,"message":"no such issuer"}`)
		}, failed, "403 Forbidden: no such issuer"},
		"500 for good": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, http.StatusInternalServerError, "oops")
		}, outcome.SigningUnavailable, "500"},
		"nobody there": {func(in *publish.Parameters) {
			in.FulcioURL = "http://127.0.0.1:1"
		}, outcome.SigningUnavailable, "127.0.0.1:1"},
		"elsewhere": {func(in *publish.Parameters) { in.FulcioURL = redirecting.URL }, failed, "307"},
		"endless":   {func(in *publish.Parameters) { in.FulcioURL = endless(t, http.StatusOK) }, failed, "more than"},
		"an endless refusal": {func(in *publish.Parameters) {
			in.FulcioURL = endless(t, http.StatusForbidden)
		}, failed, "403"},
		"no JSON": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, "<html>")
		}, failed, "not taken"},
		"no certificates": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, "{}")
		}, failed, "0 certificates"},
		"many certificates": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, certificates(slices.Repeat([]string{"a"}, 20)...))
		}, failed, "20 certificates"},
		"no PEM": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, certificates("a"))
		}, failed, "not PEM"},
		"damaged PEM": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, certificates(string(pemOf("CERTIFICATE", []byte("a")))))
		}, failed, "certificate 0"},
		"the certificate of another key": {func(in *publish.Parameters) {
			in.FulcioURL = saying(t, 200, certificates(foreign()))
		}, failed, "another key"},
		"a chain that is none": {func(in *publish.Parameters) {
			in.FulcioURL = changing(t, s.FulcioURL, func(body []byte) []byte {
				var doc map[string]map[string]map[string][]string
				if err := json.Unmarshal(body, &doc); err != nil {
					t.Error(err)
				}
				for _, given := range doc {
					listed := given["chain"]["certificates"]
					return []byte(certificates(listed[0], foreign(), listed[1]))
				}
				return nil
			})
		}, failed, "not signed by the next one"},
		"an expired certificate": {func(in *publish.Parameters) { in.FulcioURL = expired.FulcioURL }, failed, "only"},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			in, token := identified(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))), s, account)
			in.ImageName = "app-" + strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(kind))
			test.change(&in)
			_, logged, err := run(t, in)
			wantFailure(t, err, test.reason, test.says)
			if told := logged + fmt.Sprint(err); strings.Contains(told, token) || strings.Contains(told, "canary") {
				t.Errorf("the token is told: %s", told)
			}
			if r.Has(t, "team/"+in.ImageName+":v1-1a2b3c4d") {
				t.Error("it is pushed all the same")
			}
		})
	}
	t.Cleanup(func() {
		if elsewhere.Load() > 0 {
			t.Error("the token went elsewhere")
		}
	})
}

// A Fulcio that says what it was sent gets it into no message.
func TestEchoedToken(t *testing.T) {
	t.Parallel()
	r := registrytest.New(t)
	s := sigstoretest.New(t)
	in, token := identified(t, to(r, built(t, registrytest.RandomImage(t, 1, 100))), s, account)
	for kind, body := range map[string]string{
		"as Fulcio":     `{"message":"no good: ` + token + `"}`,
		"as a registry": `{"errors":[{"code":"DENIED","message":"no good: ` + token + `"}]}`,
	} {
		in.FulcioURL = saying(t, http.StatusUnauthorized, body)
		_, logged, err := run(t, in)
		wantFailure(t, err, outcome.SigningFailed, "no good")
		if told := logged + fmt.Sprint(err); strings.Contains(told, token) {
			t.Errorf("%s: the token is told: %s", kind, told)
		}
	}
}

// Who tells the time and who keeps the log may lie. What they say is looked at before it is pushed.
func TestFalseProofs(t *testing.T) {
	t.Parallel()
	s := sigstoretest.WithLog(t)
	stamp := func(of string, at time.Time) []byte {
		return must[[]byte](t)(s.StampAt(sigstoretest.Query(t, []byte(of)), at))
	}
	timestamp := func(change func(body []byte) []byte) func(in *publish.Parameters) {
		return func(in *publish.Parameters) { in.TimestampURL = changing(t, s.TimestampURL, change) }
	}
	rekor := func(change func(body []byte) []byte) func(in *publish.Parameters) {
		return func(in *publish.Parameters) { in.RekorURL = changing(t, s.RekorURL, change) }
	}
	entry := func(change func(entry map[string]any)) func(in *publish.Parameters) {
		return rekor(func(body []byte) []byte {
			var doc map[string]map[string]any
			if err := json.Unmarshal(body, &doc); err != nil {
				t.Error(err)
			}
			for _, e := range doc {
				change(e)
			}
			return must[[]byte](t)(json.Marshal(doc))
		})
	}
	proof := func(entry map[string]any) map[string]any {
		return entry["verification"].(map[string]any)["inclusionProof"].(map[string]any)
	}
	body := func(change func(text string) string) func(entry map[string]any) {
		return func(entry map[string]any) {
			var text []byte
			if err := json.Unmarshal(fmt.Appendf(nil, "%q", entry["body"]), &text); err != nil {
				t.Error(err)
			}
			entry["body"] = []byte(change(string(text)))
		}
	}
	var earlier []byte
	tests := map[string]struct {
		change func(in *publish.Parameters)
		says   string
	}{
		"a timestamp of something else": {timestamp(func([]byte) []byte {
			return stamp("else", time.Now())
		}), "something else than the signature"},
		"a timestamp of another time": {func(in *publish.Parameters) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Write(must[[]byte](t)(s.StampAt(must[[]byte](t)(io.ReadAll(r.Body)), time.Now().Add(time.Hour))))
			}))
			t.Cleanup(server.Close)
			in.TimestampURL = server.URL
		}, "the certificate is good from"},
		"no timestamp": {timestamp(func([]byte) []byte { return []byte{0x30, 3, 0x30, 1, 2} }), "no timestamp"},
		"a rejection": {timestamp(func([]byte) []byte {
			return append([]byte{0x30, 15, 0x30, 13, 2, 1, 2, 0x30, 8, 0x0c, 6}, "closed"...)
		}), "status 2 closed"},
		"a timestamp, and more": {timestamp(func(body []byte) []byte { return append(body, 0) }), "more follows"},
		"half a timestamp":      {timestamp(func(body []byte) []byte { return body[:len(body)/2] }), "no timestamp"},
		"an endless timestamp": {func(in *publish.Parameters) {
			in.TimestampURL = endless(t, http.StatusOK)
		}, "more than"},
		"an authority that refuses": {func(in *publish.Parameters) {
			in.TimestampURL = saying(t, http.StatusBadRequest, "")
		}, "timestamp-url: "},
		"no entry": {rekor(func([]byte) []byte { return []byte("{}") }), "0 entries"},
		"no JSON":  {rekor(func([]byte) []byte { return []byte("<html>") }), "rekor-url: "},
		"an earlier entry": {rekor(func(body []byte) []byte {
			if earlier == nil {
				earlier = body
			}
			return earlier
		}), "something else than the signature"},
		"an entry of another time": {entry(func(e map[string]any) {
			e["integratedTime"] = 1
		}), "the certificate is good from"},
		"an entry of another kind": {entry(body(func(text string) string {
			return strings.Replace(text, "dsse", "rekord", 1)
		})), "another kind"},
		"an entry that was changed": {entry(body(func(text string) string { return text + " " })), "not in the log"},
		"an entry beside the tree": {entry(func(e map[string]any) {
			proof(e)["rootHash"] = strings.Repeat("00", 32)
		}), "not in the log"},
		"an entry beyond the tree": {entry(func(e map[string]any) {
			proof(e)["logIndex"] = 1 << 40
		}), "not in the log"},
		"a checkpoint of another tree": {entry(func(e map[string]any) {
			proof(e)["checkpoint"] = "rekor\n1\nAAAA\n"
		}), "another tree"},
		"an entry that nobody signed": {entry(func(e map[string]any) {
			e["verification"].(map[string]any)["signedEntryTimestamp"] = ""
		}), "not signed by the log"},
		"a conflict without a place": {func(in *publish.Parameters) {
			in.RekorURL = saying(t, http.StatusConflict, "")
		}, "does not say where"},
		"an endless entry": {func(in *publish.Parameters) {
			in.RekorURL = endless(t, http.StatusCreated)
		}, "more than"},
	}
	for kind, test := range tests {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			image := registrytest.RandomImage(t, 1, 100)
			at := listing(t)
			in, token := identified(t, plain(at, built(t, attested(t, image, digest(t, image)))), s, account)
			test.change(&in)
			_, logged, err := run(t, in)
			wantFailure(t, err, outcome.SigningFailed, test.says)
			if strings.Contains(logged+fmt.Sprint(err), token) {
				t.Errorf("the token is told: %s", logged)
			}
			index := must[name.Reference](t)(name.ParseReference(at + "/app:v1"))
			descriptor := must[*v1.Descriptor](t)(remote.Head(index))
			if got := bundlesOf(t, at+"/app", descriptor.Digest.String())[signPredicate]; got != nil {
				t.Errorf("it is signed all the same: %v", got)
			}
		})
	}
}

// Services that fail for now are asked again. An entry that the log took, and could not say so, is found.
func TestTransientFaultsOfIdentities(t *testing.T) {
	t.Parallel()
	is := func(path string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == http.MethodPost && r.URL.Path == path }
	}
	const fulcio, timestamp, rekor = "/api/v2/signingCert", "/api/v1/timestamp", "/api/v1/log/entries"
	for kind, test := range map[string]struct {
		path  string
		fault faulttest.Fault
	}{
		"Fulcio answers 500":      {fulcio, faulttest.Fault{Status: 500}},
		"Fulcio answers 429":      {fulcio, faulttest.Fault{Status: 429, RetryAfter: "0"}},
		"Fulcio breaks":           {fulcio, faulttest.Fault{}},
		"the authority breaks":    {timestamp, faulttest.Fault{CutBody: 10}},
		"the authority says 503":  {timestamp, faulttest.Fault{Status: 503}},
		"Rekor answers 502":       {rekor, faulttest.Fault{Status: 502}},
		"Rekor breaks":            {rekor, faulttest.Fault{}},
		"Rekor breaks afterwards": {rekor, faulttest.Fault{CutBody: 10}},
		"Rekor's proxy times out": {rekor, faulttest.Fault{Status: 504}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := sigstoretest.WithLog(t)
			proxy := faulttest.Before(t, s.FulcioURL, faulttest.First(2, is(test.path), test.fault))
			image := registrytest.RandomImage(t, 1, 100)
			at := listing(t)
			in, _ := identified(t, plain(at, built(t, image)), s, account)
			in.FulcioURL, in.TimestampURL, in.RekorURL = proxy.URL, proxy.URL+timestamp, proxy.URL
			_, logged := mustRun(t, in)
			if proxy.Faults.Load() == 0 {
				t.Fatalf("nothing went wrong: %s", logged)
			}
			b := bundlesOf(t, at+"/app", digest(t, image))[signPredicate]
			if b == nil {
				t.Fatal("it is not signed")
			}
			if err := verifiedBy(b, s.Root, account, digest(t, image), true, true); err != nil {
				t.Error(err)
			}
		})
	}
}

// A clock that is behind the one of Fulcio is waited for.
func TestClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s := sigstoretest.New(t)
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := time.Now()
		if asked.Add(1) <= 2 {
			at = at.Add(-5 * time.Minute)
		}
		w.Write(must[[]byte](t)(s.StampAt(must[[]byte](t)(io.ReadAll(r.Body)), at)))
	}))
	t.Cleanup(server.Close)
	image := registrytest.RandomImage(t, 1, 100)
	at := listing(t)
	in, _ := identified(t, plain(at, built(t, image)), s, account)
	in.TimestampURL = server.URL
	mustRun(t, in)
	b := bundlesOf(t, at+"/app", digest(t, image))[signPredicate]
	if err := verifiedBy(b, s.Root, account, digest(t, image), true, false); err != nil || asked.Load() != 3 {
		t.Errorf("%v, after %d questions", err, asked.Load())
	}
}

// A bundle that somebody changed, or a time after the certificate's end, verifies as nothing.
func TestTamperedIdentity(t *testing.T) {
	t.Parallel()
	s := sigstoretest.WithLog(t)
	image := registrytest.RandomImage(t, 1, 100)
	r := registrytest.New(t)
	in, _ := identified(t, to(r, built(t, image)), s, account)
	mustRun(t, in)
	raw := signatureOf(t, r.Host+"/team/shop-cart", digest(t, image), client(t, r))
	check := func(raw []byte) error {
		b := &bundle.Bundle{}
		if err := b.UnmarshalJSON(raw); err != nil {
			return err
		}
		return verifiedBy(b, s.Root, account, digest(t, image), true, true)
	}
	if err := check(raw); err != nil {
		t.Fatal(err)
	}
	tampered := func(change func(material map[string]any, signed []byte)) []byte {
		var doc map[string]any
		if err := json.Unmarshal(raw, &doc); err != nil {
			t.Fatal(err)
		}
		var sealed struct {
			Envelope struct {
				Signatures []struct{ Sig []byte }
			} `json:"dsseEnvelope"`
		}
		if err := json.Unmarshal(raw, &sealed); err != nil {
			t.Fatal(err)
		}
		change(doc["verificationMaterial"].(map[string]any), sealed.Envelope.Signatures[0].Sig)
		return must[[]byte](t)(json.Marshal(doc))
	}
	for kind, changed := range map[string][]byte{
		"another certificate of the identity": tampered(func(material map[string]any, _ []byte) {
			leaf := s.Certificate(t, ecKey(t, elliptic.P256()).Public(), sigstoretest.Identity(account), tokenIssuer)
			material["certificate"] = map[string]any{"rawBytes": leaf.Raw}
		}),
		"a time after its end": tampered(func(material map[string]any, signed []byte) {
			late := must[[]byte](t)(s.StampAt(sigstoretest.Query(t, signed), time.Now().Add(20*time.Minute)))
			material["timestampVerificationData"] = map[string]any{
				"rfc3161Timestamps": []any{map[string]any{"signedTimestamp": late}},
			}
		}),
		"no entry": tampered(func(material map[string]any, _ []byte) { delete(material, "tlogEntries") }),
		"another statement": restated(
			t, raw, digest(t, image), "sha256:"+strings.Repeat("0", 64),
		),
	} {
		if err := check(changed); err == nil {
			t.Errorf("%s: it is verified", kind)
		}
	}
}
