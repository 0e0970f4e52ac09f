package signature

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
)

// The kind of the entries, as cosign makes them.
const (
	entryKind    = "dsse"
	entryVersion = "0.0.1"
)

// logEntry is an entry of a transparency log, as a bundle holds it (protobuf-specs, dev.sigstore.rekor.v1).
type logEntry struct {
	LogIndex       int64       `json:"logIndex,omitempty,string"`
	LogID          logID       `json:"logId"`
	KindVersion    kindVersion `json:"kindVersion"`
	IntegratedTime int64       `json:"integratedTime,string"` // seconds since 1970
	Promise        promise     `json:"inclusionPromise"`
	Proof          inclusion   `json:"inclusionProof"`
	Body           []byte      `json:"canonicalizedBody"` // entryBody
}

type logID struct {
	KeyID []byte `json:"keyId"`
}

type kindVersion struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
}

type promise struct {
	SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
}

// inclusion says that a tree has the entry (RFC 6962).
type inclusion struct {
	LogIndex   int64      `json:"logIndex,omitempty,string"`
	RootHash   []byte     `json:"rootHash"`
	TreeSize   int64      `json:"treeSize,string"`
	Hashes     [][]byte   `json:"hashes,omitempty"`
	Checkpoint checkpoint `json:"checkpoint"`
}

type checkpoint struct {
	Envelope string `json:"envelope"`
}

// entryBody is what the log has of a statement, a kind of hashes only.
type entryBody struct {
	kindOf
	Spec struct {
		EnvelopeHash, PayloadHash hashed
		Signatures                []struct {
			Signature []byte `json:"signature"`
			Verifier  []byte `json:"verifier"` // the certificate, PEM
		} `json:"signatures"`
	} `json:"spec"`
}

type kindOf struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

type hashed struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"value"` // hexadecimal
}

func (h hashed) is(content []byte) bool {
	sum := sha256.Sum256(content)
	return h.Algorithm == "sha256" && h.Value == hex.EncodeToString(sum[:])
}

const entriesPath = "/api/v1/log/entries"

// entryName is the name of an entry: its hash, with the tree's before it in a log of several.
var entryName = regexp.MustCompile(`^([0-9a-f]{64}|[0-9a-f]{80})$`)

// log puts a signed statement into the log: its hashes, the signature and the certificate, and not what it says. One
// that the log has already is the one that an earlier try put there.
func (k *Keyless) log(ctx context.Context, sealed envelope) (logEntry, error) {
	text, err := json.Marshal(sealed)
	if err != nil {
		return logEntry{}, outcome.Errorf(outcome.SigningFailed, "log: %w", err)
	}
	proposed := struct {
		kindOf
		Spec struct {
			Content struct {
				Envelope  string   `json:"envelope"`
				Verifiers [][]byte `json:"verifiers"` // PEM
			} `json:"proposedContent"`
		} `json:"spec"`
	}{kindOf: kindOf{entryVersion, entryKind}}
	proposed.Spec.Content.Envelope = string(text)
	proposed.Spec.Content.Verifiers = [][]byte{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.held.leaf.Raw}),
	}
	body, err := json.Marshal(proposed)
	if err != nil {
		return logEntry{}, outcome.Errorf(outcome.SigningFailed, "log: %w", err)
	}
	got, err := k.rekor.ask(
		ctx, http.MethodPost, entriesPath, "application/json", body, http.StatusCreated, http.StatusConflict,
	)
	if err == nil && got.status == http.StatusConflict {
		name := path.Base(got.location)
		if !entryName.MatchString(name) {
			return logEntry{}, k.rekor.nonsense("it has the entry already, and does not say where")
		}
		got, err = k.rekor.ask(ctx, http.MethodGet, entriesPath+"/"+name, "", nil, http.StatusOK)
	}
	if err != nil {
		return logEntry{}, err
	}
	entry, err := readEntry(got.body)
	if err == nil {
		err = entry.check(sealed, k.held.leaf)
	}
	if err != nil {
		return logEntry{}, k.rekor.nonsense("%w", err)
	}
	return entry, nil
}

// readEntry reads an entry as the log answers with it.
func readEntry(content []byte) (logEntry, error) {
	var answer map[string]struct {
		Body           []byte
		IntegratedTime int64
		LogID          string
		LogIndex       int64
		Verification   struct {
			InclusionProof struct {
				Checkpoint         string
				Hashes             []string
				LogIndex, TreeSize int64
				RootHash           string
			}
			SignedEntryTimestamp []byte
		}
	}
	if err := json.Unmarshal(content, &answer); err != nil {
		return logEntry{}, err
	}
	if len(answer) != 1 {
		return logEntry{}, fmt.Errorf("it has %d entries", len(answer))
	}
	var entry logEntry
	for _, e := range answer {
		proof := e.Verification.InclusionProof
		id, failed := hex.DecodeString(e.LogID)
		root, noRoot := hex.DecodeString(proof.RootHash)
		if err := errors.Join(failed, noRoot); err != nil {
			return logEntry{}, err
		}
		entry = logEntry{
			LogIndex: e.LogIndex, LogID: logID{id}, KindVersion: kindVersion{entryKind, entryVersion},
			IntegratedTime: e.IntegratedTime, Promise: promise{e.Verification.SignedEntryTimestamp},
			Proof: inclusion{
				LogIndex: proof.LogIndex, RootHash: root, TreeSize: proof.TreeSize,
				Checkpoint: checkpoint{proof.Checkpoint},
			},
			Body: e.Body,
		}
		for _, text := range proof.Hashes {
			hash, err := hex.DecodeString(text)
			if err != nil {
				return logEntry{}, err
			}
			entry.Proof.Hashes = append(entry.Proof.Hashes, hash)
		}
	}
	return entry, nil
}

// check wants an entry to be of a signed statement and its certificate, at a time when that was good, and in the tree
// that the log shows. Whether the log signed all this a verifier finds out, which has the log's key.
func (e logEntry) check(sealed envelope, leaf *x509.Certificate) error {
	text, err := json.Marshal(sealed)
	if err != nil {
		return err
	}
	var body entryBody
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return fmt.Errorf("the entry: %w", err)
	}
	if (body.kindOf != kindOf{entryVersion, entryKind}) || e.KindVersion != (kindVersion{entryKind, entryVersion}) {
		return errors.New("the entry is of another kind")
	}
	if !body.Spec.PayloadHash.is(sealed.Payload) || !body.Spec.EnvelopeHash.is(text) ||
		len(body.Spec.Signatures) != 1 || !bytes.Equal(body.Spec.Signatures[0].Signature, sealed.Signatures[0].Sig) {
		return errors.New("the entry is of something else than the signature")
	}
	block, _ := pem.Decode(body.Spec.Signatures[0].Verifier)
	if block == nil || !bytes.Equal(block.Bytes, leaf.Raw) {
		return errors.New("the entry has another certificate")
	}
	if err := goodAt(leaf, time.Unix(e.IntegratedTime, 0)); err != nil {
		return fmt.Errorf("the entry: %w", err)
	}
	if len(e.Promise.SignedEntryTimestamp) == 0 || len(e.LogID.KeyID) != sha256.Size {
		return errors.New("the entry is not signed by the log")
	}
	return e.Proof.check(e.Body)
}

// check wants the tree of the checkpoint to have the entry.
func (p inclusion) check(body []byte) error {
	root, ok := p.root(body)
	if !ok || !bytes.Equal(root, p.RootHash) {
		return errors.New("the entry is not in the log that it is said to be in")
	}
	lines := strings.SplitN(p.Checkpoint.Envelope, "\n", 4)
	if len(lines) < 4 || lines[1] != strconv.FormatInt(p.TreeSize, 10) ||
		lines[2] != base64.StdEncoding.EncodeToString(p.RootHash) {
		return errors.New("the log's checkpoint is of another tree")
	}
	return nil
}

// root is the root of the tree that has the entry, by the hashes beside its way up (RFC 6962 section 2.1.1).
func (p inclusion) root(body []byte) ([]byte, bool) {
	if p.LogIndex < 0 || p.LogIndex >= p.TreeSize {
		return nil, false
	}
	node := func(prefix byte, parts ...[]byte) []byte {
		sum := sha256.Sum256(bytes.Join(append([][]byte{{prefix}}, parts...), nil))
		return sum[:]
	}
	at, last, hash := p.LogIndex, p.TreeSize-1, node(0, body)
	for _, beside := range p.Hashes {
		if last == 0 || len(beside) != sha256.Size {
			return nil, false
		}
		if at&1 == 1 || at == last {
			hash = node(1, beside, hash)
			for at&1 == 0 && at != 0 {
				at, last = at>>1, last>>1
			}
		} else {
			hash = node(1, hash, beside)
		}
		at, last = at>>1, last>>1
	}
	return hash, last == 0
}
