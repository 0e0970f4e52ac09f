package sigstoretest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	rekor "github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1" // registers the kind of the entries
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
)

// transparencyLog is a log of signed statements. What it has of each, Rekor's own code makes.
type transparencyLog struct {
	key *ecdsa.PrivateKey
	id  [sha256.Size]byte

	mu      sync.Mutex
	entries []logged
}

type logged struct {
	name string // in hexadecimal
	body []byte
	at   time.Time
}

func newLog(t testing.TB) *transparencyLog {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &transparencyLog{key: key, id: sha256.Sum256(der)}
}

// trusted is the log as a trusted root has it; nothing without a log.
func (l *transparencyLog) trusted(since, until time.Time) map[string]*root.TransparencyLog {
	if l == nil {
		return nil
	}
	return map[string]*root.TransparencyLog{hex.EncodeToString(l.id[:]): {
		BaseURL: "https://rekor.example.com", ID: l.id[:], ValidityPeriodStart: since, ValidityPeriodEnd: until,
		HashFunc: crypto.SHA256, PublicKey: l.key.Public(), SignatureHashFunc: crypto.SHA256,
	}}
}

// treeID is the name of the log's only tree.
const treeID = 0x24296fb24b8ad77a

// add answers a request for a new entry, of the kind dsse.
func (l *transparencyLog) add(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Kind string `json:"kind"`
		Spec struct {
			ProposedContent struct {
				Envelope  string   `json:"envelope"`
				Verifiers [][]byte `json:"verifiers"`
			} `json:"proposedContent"`
		} `json:"spec"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		refuseEntry(w, http.StatusBadRequest, err)
		return
	}
	content := asked.Spec.ProposedContent
	body, err := canonical(r.Context(), asked.Kind, rekor.ArtifactProperties{
		ArtifactBytes: []byte(content.Envelope), PublicKeyBytes: content.Verifiers,
	})
	if err != nil {
		refuseEntry(w, http.StatusBadRequest, err)
		return
	}
	hash := sha256.Sum256(append([]byte{0}, body...))
	name := fmt.Sprintf("%016x%x", uint64(treeID), hash)
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Location", "/api/v1/log/entries/"+name)
	w.Header().Set("ETag", name)
	for _, e := range l.entries {
		if e.name == name {
			refuseEntry(w, http.StatusConflict, fmt.Errorf(
				"an equivalent entry already exists in the transparency log with UUID %s", name,
			))
			return
		}
	}
	l.entries = append(l.entries, logged{name, body, time.Now()})
	l.answer(w, http.StatusCreated, len(l.entries)-1)
}

// canonical is what the log has of an entry.
func canonical(ctx context.Context, kind string, properties rekor.ArtifactProperties) ([]byte, error) {
	proposed, err := rekor.NewProposedEntry(ctx, kind, "", properties)
	if err != nil {
		return nil, err
	}
	entry, err := rekor.CreateVersionedEntry(proposed)
	if err != nil {
		return nil, err
	}
	return rekor.CanonicalizeEntry(ctx, entry)
}

// get answers a question for an entry.
func (l *transparencyLog) get(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range l.entries {
		if e.name == r.PathValue("name") {
			l.answer(w, http.StatusOK, i)
			return
		}
	}
	refuseEntry(w, http.StatusNotFound, fmt.Errorf("there is no entry %s", r.PathValue("name")))
}

func refuseEntry(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"code": status, "message": err.Error()})
}

// answer sends an entry, with the log's word for it.
func (l *transparencyLog) answer(w http.ResponseWriter, status, index int) {
	e := l.entries[index]
	told := map[string]any{ // with its keys in order, as the log signs it
		"body": e.body, "integratedTime": e.at.Unix(), "logID": hex.EncodeToString(l.id[:]), "logIndex": index,
	}
	signed, err := json.Marshal(told)
	var promise, checkpoint []byte
	if err == nil {
		sum := sha256.Sum256(signed)
		promise, err = ecdsa.SignASN1(rand.Reader, l.key, sum[:])
	}
	var leaves [][]byte
	for _, e := range l.entries {
		leaves = append(leaves, e.body)
	}
	top := treeHash(leaves)
	var signer signature.Signer
	if err == nil {
		signer, err = signature.LoadECDSASigner(l.key, crypto.SHA256)
	}
	if err == nil {
		checkpoint, err = util.CreateAndSignCheckpoint(
			context.Background(), "rekor.example.com", treeID, uint64(len(leaves)), top, signer,
		)
	}
	if err != nil {
		refuseEntry(w, http.StatusInternalServerError, err)
		return
	}
	path := []string{}
	for _, hash := range auditPath(index, leaves) {
		path = append(path, hex.EncodeToString(hash))
	}
	told["verification"] = map[string]any{
		"signedEntryTimestamp": promise,
		"inclusionProof": map[string]any{
			"checkpoint": string(checkpoint), "hashes": path, "logIndex": index, "rootHash": hex.EncodeToString(top),
			"treeSize": len(leaves),
		},
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{e.name: told})
}

// treeHash is the hash of a tree (RFC 6962, Merkle Tree Hash).
func treeHash(leaves [][]byte) []byte {
	if len(leaves) == 1 {
		return hash(0, leaves[0])
	}
	k := split(len(leaves))
	return hash(1, treeHash(leaves[:k]), treeHash(leaves[k:]))
}

// auditPath is the hashes beside the way of a leaf up the tree (RFC 6962, Merkle audit path).
func auditPath(index int, leaves [][]byte) [][]byte {
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if index < k {
		return append(auditPath(index, leaves[:k]), treeHash(leaves[k:]))
	}
	return append(auditPath(index-k, leaves[k:]), treeHash(leaves[:k]))
}

// split is the largest power of two that is smaller than n.
func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func hash(prefix byte, parts ...[]byte) []byte {
	sum := sha256.Sum256(append([]byte{prefix}, bytes.Join(parts, nil)...))
	return sum[:]
}
