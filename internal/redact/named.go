package redact

import (
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

// Named returns what is secret of a value whose name says what it is, as in a service binding: nothing of a user name,
// a database or a host, the password alone of a URL, and all of what may be a secret. Masking the others would shred
// the log: a database called modules, a user called node.
func Named(name, value string) []string {
	name = strings.Map(func(r rune) rune {
		if strings.ContainsRune("-_. ", r) {
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	value = strings.TrimSpace(value)
	known := secretName(name)
	switch {
	case slices.Contains(public, name), certificate(value):
		return nil
	case known:
		return []string{value}
	}
	if parts, ok := urlSecrets(value); ok {
		return parts
	}
	if word(value) {
		return nil
	}
	return []string{value}
}

// public are names of what is no secret, without their dashes.
var public = strings.Fields(`
	type provider user username login clientid account email role
	host hosts hostname hostnames address addresses server servers endpoint endpoints port ports vhost virtualhost
	database databasename db dbname schema bucket container index queue topic catalog keyspace namespace
	name instancename servicename service label plan tags id driver driverclassname dialect engine version
	protocol scheme path region zone location environment ssl tls sslmode usessl secure replicaset timeout charset
`)

// secretName tells whether a name is used for secrets, however common their values.
func secretName(name string) bool {
	return slices.ContainsFunc([]string{
		"pass", "pwd", "secret", "token", "key", "cred", "auth", "private", "sign", "salt", "session", "cookie", "jwt",
		"bearer",
	}, func(part string) bool { return strings.Contains(name, part) }) ||
		slices.Contains([]string{"pw", "pin", "sas"}, name)
}

// certificate tells whether a text is certificates and nothing else.
func certificate(text string) bool {
	rest := []byte(text)
	for found := false; ; found = true {
		block, after := pem.Decode(rest)
		if block == nil {
			return found && len(strings.TrimSpace(string(rest))) == 0
		}
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" {
			return false
		}
		rest = after
	}
}

// urlSecrets are the parts of a URL that are secret; false: it is none.
func urlSecrets(text string) ([]string, bool) {
	u, err := url.Parse(strings.TrimPrefix(text, "jdbc:"))
	if err != nil || u.Scheme == "" || u.Host == "" {
		return nil, false
	}
	parts := []string{}
	add := func(decoded, encoded string) { parts = append(parts, decoded, encoded) }
	if password, ok := u.User.Password(); ok {
		_, encoded, _ := strings.Cut(u.User.String(), ":")
		add(password, encoded)
	} else if u.User != nil { // a token in the place of a user
		add(u.User.Username(), u.User.String())
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, encoded, _ := strings.Cut(pair, "=")
		if value, err := url.QueryUnescape(encoded); err == nil && secretName(strings.ToLower(name)) {
			add(value, encoded)
		}
	}
	return parts, true
}

// longestWord is the length up to which a value without digits is taken for a word.
const longestWord = 11

// word tells whether a text is a word as people and programs use them, which a log is full of.
func word(text string) bool {
	return len(text) <= longestWord && !strings.ContainsFunc(text, func(r rune) bool {
		return !unicode.IsLetter(r) && !strings.ContainsRune("-_.", r)
	})
}
