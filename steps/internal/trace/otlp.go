package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// scope names who made the spans.
const scope = "github.com/stepwright/stepwright/steps"

// textLimit is how long a text of a span is at most, in bytes.
const textLimit = 2 << 10

// message is a message of Protocol Buffers in its making.
type message []byte

func (m *message) tag(field, wire int) { *m = binary.AppendUvarint(*m, uint64(field<<3|wire)) }

func (m *message) varint(field int, value uint64) {
	m.tag(field, 0)
	*m = binary.AppendUvarint(*m, value)
}

func (m *message) fixed64(field int, value uint64) {
	m.tag(field, 1)
	*m = binary.LittleEndian.AppendUint64(*m, value)
}

func (m *message) bytes(field int, value []byte) {
	m.tag(field, 2)
	*m = binary.AppendUvarint(*m, uint64(len(value)))
	*m = append(*m, value...)
}

func (m *message) text(field int, value string) {
	value = strings.ToValidUTF8(value, "\uFFFD") // collectors refuse a whole message for one such text
	if len(value) > textLimit {
		end := textLimit
		for !utf8.RuneStart(value[end]) {
			end--
		}
		value = value[:end]
	}
	m.bytes(field, []byte(value))
}

// encode makes an ExportTraceServiceRequest. The numbers of fields are from opentelemetry-proto 1:
// collector/trace/v1/trace_service.proto, trace/v1/trace.proto, common/v1/common.proto and resource/v1/resource.proto.
func encode(resource []Attribute, trace ID, spans []Span, mask func(string) string) []byte {
	var about message
	attributes(&about, 1, resource, mask)
	var by message
	by.text(1, scope)
	var of message
	of.bytes(1, by)
	for _, s := range spans {
		of.bytes(2, s.encode(trace, mask))
	}
	var all message
	all.bytes(1, about)
	all.bytes(2, of)
	var request message
	request.bytes(1, all)
	return request
}

// internal is the kind of spans that are no request to another program; failed is the code of one that failed.
const internal, failed = 1, 2

func (s Span) encode(trace ID, mask func(string) string) message {
	var m message
	m.bytes(1, trace[:])
	m.bytes(2, s.ID[:])
	if s.Parent != (SpanID{}) {
		m.bytes(4, s.Parent[:])
	}
	m.text(5, mask(s.Name))
	m.varint(6, internal)
	m.fixed64(7, uint64(s.Start.UnixNano()))
	m.fixed64(8, uint64(s.End.UnixNano()))
	attributes(&m, 9, s.Attributes, mask)
	if s.Failed {
		var status message
		status.text(2, mask(s.Message))
		status.varint(3, failed)
		m.bytes(15, status)
	}
	return m
}

func attributes(m *message, field int, all []Attribute, mask func(string) string) {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b Attribute) int { return strings.Compare(a.Key, b.Key) })
	for _, a := range sorted {
		var value message
		switch v := a.Value.(type) {
		case bool:
			bit := uint64(0)
			if v {
				bit = 1
			}
			value.varint(2, bit)
		case int64:
			value.varint(3, uint64(v))
		case float64:
			value.fixed64(4, math.Float64bits(v))
		default:
			value.text(1, mask(fmt.Sprint(v)))
		}
		var pair message
		pair.text(1, a.Key)
		pair.bytes(2, value)
		m.bytes(field, pair)
	}
}

// partial reads an ExportTraceServiceResponse: how many spans were refused, and why.
func partial(answer []byte) (refused int64, why string, err error) {
	err = fields(answer, func(field int, _ uint64, raw []byte) error {
		if field != 1 || raw == nil {
			return nil
		}
		return fields(raw, func(field int, number uint64, raw []byte) error {
			switch field {
			case 1:
				refused = int64(number)
			case 2:
				why = string(raw)
			}
			return nil
		})
	})
	return refused, why, err
}

var errNoMessage = errors.New("it is no message of Protocol Buffers")

// fields calls each for every field of a message, with its number or its bytes.
func fields(m []byte, each func(field int, number uint64, raw []byte) error) error {
	for len(m) > 0 {
		tag, n := binary.Uvarint(m)
		if n <= 0 {
			return errNoMessage
		}
		m = m[n:]
		var number uint64
		var raw []byte
		switch tag & 7 {
		case 0:
			if number, n = binary.Uvarint(m); n <= 0 {
				return errNoMessage
			}
		case 1:
			n = 8
		case 5:
			n = 4
		case 2:
			length, read := binary.Uvarint(m)
			if read <= 0 || length > uint64(len(m)-read) {
				return errNoMessage
			}
			n = read + int(length)
			raw = m[read:n]
		default:
			return errNoMessage
		}
		if n > len(m) {
			return errNoMessage
		}
		m = m[n:]
		if err := each(int(tag>>3), number, raw); err != nil {
			return err
		}
	}
	return nil
}
