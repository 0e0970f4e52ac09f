package signature

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"time"

	"github.com/stepwright/stepwright/internal/outcome"
	"github.com/stepwright/stepwright/internal/quote"
)

var (
	sha256ID     = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	signedDataID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	tstInfoID    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
)

// imprint is what a timestamp is about: a hash (RFC 3161, MessageImprint).
type imprint struct {
	Algorithm pkix.AlgorithmIdentifier
	Hash      []byte
}

// stamp gets a timestamp of a signature: the authority's whole answer, as bundles hold it. It is not verified here who
// the authority is: a verifier knows whom it trusts.
func (k *Keyless) stamp(ctx context.Context, signed []byte) ([]byte, error) {
	sum := sha256.Sum256(signed)
	query, err := asn1.Marshal(struct {
		Version int
		Imprint imprint
	}{1, imprint{pkix.AlgorithmIdentifier{Algorithm: sha256ID, Parameters: asn1.NullRawValue}, sum[:]}})
	if err != nil {
		return nil, outcome.Errorf(outcome.SigningFailed, "ask for a timestamp: %w", err)
	}
	got, err := k.tsa.ask(
		ctx, http.MethodPost, "", "application/timestamp-query", query, http.StatusOK, http.StatusCreated,
	)
	if err != nil {
		return nil, err
	}
	at, err := readTimestamp(got.body, signed)
	if from := k.held.leaf.NotBefore; err == nil && at.Before(from) { // another try comes later
		return nil, outcome.Errorf(
			outcome.SigningUnavailable,
			"%s: the clock of %s is behind the one of Fulcio: it is %s, and the certificate is good from %s",
			k.tsa.parameter, k.tsa.base.Host, at.UTC().Format(time.RFC3339),
			from.UTC().Format(time.RFC3339),
		)
	}
	if err == nil {
		err = goodAt(k.held.leaf, at)
	}
	if err != nil {
		return nil, k.tsa.nonsense("%w", err)
	}
	return got.body, nil
}

// readTimestamp reads an authority's answer (RFC 3161, TimeStampResp), and returns the time that it gives a signature.
func readTimestamp(answer, signed []byte) (time.Time, error) {
	var response struct {
		Status struct {
			Status int
			Text   []string       `asn1:"optional"`
			Fault  asn1.BitString `asn1:"optional"`
		}
		Token asn1.RawValue `asn1:"optional"`
	}
	if err := whole(answer, &response); err != nil {
		return time.Time{}, err
	}
	if status := response.Status.Status; status != 0 && status != 1 { // granted, or granted with changes
		return time.Time{}, fmt.Errorf(
			"it gives no timestamp: status %d %s", status,
			quote.Line(strings.Join(response.Status.Text, " "), maxWords),
		)
	}
	var content struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,tag:0"`
	}
	if err := whole(response.Token.FullBytes, &content); err != nil {
		return time.Time{}, err
	}
	var signedData struct { // certificates and signatures follow
		Version    int
		Algorithms asn1.RawValue
		Inside     struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
		}
	}
	if err := whole(content.Content.Bytes, &signedData); err != nil {
		return time.Time{}, err
	}
	if !content.Type.Equal(signedDataID) || !signedData.Inside.Type.Equal(tstInfoID) {
		return time.Time{}, errors.New("it is no timestamp")
	}
	var text []byte
	if err := whole(signedData.Inside.Content.Bytes, &text); err != nil {
		return time.Time{}, err
	}
	var info struct { // accuracy, and more, follow
		Version int
		Policy  asn1.ObjectIdentifier
		Imprint imprint
		Serial  *big.Int
		Time    time.Time `asn1:"generalized"`
	}
	if err := whole(text, &info); err != nil {
		return time.Time{}, err
	}
	sum := sha256.Sum256(signed)
	if !info.Imprint.Algorithm.Algorithm.Equal(sha256ID) || !bytes.Equal(info.Imprint.Hash, sum[:]) {
		return time.Time{}, errors.New("its timestamp is of something else than the signature")
	}
	return info.Time, nil
}

// whole reads DER that is one value and nothing else.
func whole(der []byte, into any) error {
	rest, err := asn1.Unmarshal(der, into)
	if err != nil {
		return fmt.Errorf("it is no timestamp: %w", err)
	}
	if len(rest) > 0 {
		return errors.New("it is no timestamp: more follows it")
	}
	return nil
}
