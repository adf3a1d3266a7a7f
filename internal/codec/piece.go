package codec

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
)

// A Piece receives ai.Raw or ai.StreamInput messages, one after the other, and
// hands each to a function while it is still in connect's read buffer: from
// there its bytes go straight to where they belong, without a copy or an
// allocation in between. It is an InPlace message of Proto and JSON.
//
// Use Receive. Who calls connect's Receive directly must Reset the Piece before
// each call, and take one that is not Consumed after a successful call for an
// empty message: connect does not decode messages of zero length.
type Piece struct {
	// Kwargs and Version are those of an ai.StreamInput, nil and "" in an
	// ai.Raw. Data are the bytes of an ai.Raw, or of the one in an
	// ai.StreamInput. Kwargs and Data alias connect's buffer: both they and
	// their bytes are valid only while the message is being consumed.
	Kwargs  []byte
	Version string
	Data    []byte

	// Err is what the function returned. It is not Unmarshal's error, because
	// connect would wrap that one as the client's mistake.
	Err error
	// Consumed says that the function was called.
	Consumed bool

	consume func(*Piece) error
	message func() proto.Message
	input   bool   // of type ai.StreamInput
	version string // the last one, to be used again when it repeats
}

// maxKeptVersion is the longest version, in bytes, that a Piece remembers.
const maxKeptVersion = 256

// NewRawPiece makes a Piece for messages of type ai.Raw.
func NewRawPiece(consume func(*Piece) error) *Piece {
	return &Piece{consume: consume, message: func() proto.Message { return new(ai.Raw) }}
}

// NewInputPiece makes a Piece for messages of type ai.StreamInput.
func NewInputPiece(consume func(*Piece) error) *Piece {
	return &Piece{consume: consume, message: func() proto.Message { return new(ai.StreamInput) }, input: true}
}

// Receive receives one message from a connect stream and has it consumed, an
// empty one too. It returns the stream's error, which matches io.EOF at its
// end, or else the function's, unchanged; the latter is also in Err.
func (p *Piece) Receive(conn interface{ Receive(message any) error }) error {
	p.Reset()
	if err := conn.Receive(p); err != nil {
		return err
	}
	if !p.Consumed {
		p.run()
	}
	return p.Err
}

// Reset readies the Piece for the next message.
func (p *Piece) Reset() {
	p.Kwargs, p.Version, p.Data = nil, "", nil
	p.Err, p.Consumed = nil, false
}

// Message makes an empty message of the type that the Piece receives.
func (p *Piece) Message() proto.Message { return p.message() }

// UnmarshalInPlace decodes the message and has it consumed. The error is for a
// message that is malformed; it was not consumed then.
func (p *Piece) UnmarshalInPlace(wire []byte) error {
	p.Reset()
	parse := p.parseRaw
	if p.input {
		parse = p.parseInput
	}
	if err := parse(wire); err != nil {
		p.Reset()
		return err
	}
	p.run()
	return nil
}

// run consumes the message and drops what aliases it.
func (p *Piece) run() {
	p.Consumed = true
	p.Err = p.consume(p)
	p.Kwargs, p.Version, p.Data = nil, "", nil
}

// parseRaw reads an ai.Raw. Of a field that comes twice the last one counts, as
// protobuf has it, also over several Raws in one StreamInput.
func (p *Piece) parseRaw(wire []byte) error {
	for len(wire) > 0 {
		num, value, rest, err := field(wire, 1)
		if err != nil {
			return fmt.Errorf("unmarshal ai.Raw: %w", err)
		}
		if num == 1 {
			p.Data = value
		}
		wire = rest
	}
	return nil
}

func (p *Piece) parseInput(wire []byte) error {
	for len(wire) > 0 {
		num, value, rest, err := field(wire, 3)
		if err != nil {
			return fmt.Errorf("unmarshal ai.StreamInput: %w", err)
		}
		switch num {
		case 1:
			p.Kwargs = value
		case 2:
			if !utf8.Valid(value) {
				return errors.New("unmarshal ai.StreamInput: version is not UTF-8")
			}
			p.setVersion(value)
		case 3:
			if err := p.parseRaw(value); err != nil {
				return err
			}
		}
		wire = rest
	}
	return nil
}

// setVersion copies b, unless it is what it was last time: senders may repeat
// the version in each message.
func (p *Piece) setVersion(b []byte) {
	if p.version == string(b) {
		p.Version = p.version
		return
	}
	p.Version = string(b)
	if len(b) <= maxKeptVersion {
		p.version = p.Version
	}
}

var (
	errFieldType   = errors.New("wrong wire type")
	errFieldNumber = errors.New("invalid field number")
)

// field reads one field. value is nil for those above last, which are unknown;
// the others must be of type bytes.
func field(wire []byte, last protowire.Number) (num protowire.Number, value, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(wire)
	if n < 0 {
		return 0, nil, nil, protowire.ParseError(n)
	}
	wire = wire[n:]
	switch {
	case num > protowire.MaxValidNumber:
		return 0, nil, nil, errFieldNumber
	case num > last:
		n = protowire.ConsumeFieldValue(num, typ, wire)
	case typ != protowire.BytesType:
		return 0, nil, nil, fmt.Errorf("field %d: %w", num, errFieldType)
	default:
		value, n = protowire.ConsumeBytes(wire)
	}
	if n < 0 {
		return 0, nil, nil, fmt.Errorf("field %d: %w", num, protowire.ParseError(n))
	}
	return num, value, wire[n:], nil
}
