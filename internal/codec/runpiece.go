package codec

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// A RunPiece receives RunRequest messages, one after the other, and hands each to
// a function while its chunk's data are still in connect's read buffer. It is to
// RunRequest what [Piece] is to ai.Raw, and is used the same way.
type RunPiece struct {
	// Err and Consumed are those of a Piece.
	Err      error
	Consumed bool

	consume func(*aipodv1.RunRequest) error
	request aipodv1.RunRequest
	rest    []byte // the message without its chunk's data
}

// NewRunPiece makes a RunPiece. The request that consume gets, and all in it, is
// valid only during the call.
func NewRunPiece(consume func(*aipodv1.RunRequest) error) *RunPiece {
	return &RunPiece{consume: consume}
}

// Receive is like that of a Piece.
func (p *RunPiece) Receive(conn interface{ Receive(message any) error }) error {
	p.Err, p.Consumed = nil, false
	p.request.Reset()
	if err := conn.Receive(p); err != nil {
		return err
	}
	if !p.Consumed {
		p.run()
	}
	return p.Err
}

// Message makes an empty RunRequest.
func (p *RunPiece) Message() proto.Message { return new(aipodv1.RunRequest) }

// UnmarshalInPlace decodes the message and has it consumed. The error is for a
// message that is malformed; it was not consumed then.
func (p *RunPiece) UnmarshalInPlace(wire []byte) error {
	p.Err, p.Consumed = nil, false
	data, err := p.split(wire)
	if err == nil {
		err = proto.Unmarshal(p.rest, &p.request)
	}
	if err != nil {
		p.request.Reset()
		return fmt.Errorf("unmarshal aipod.v1.RunRequest: %w", err)
	}
	if chunk := p.request.GetChunk(); chunk != nil {
		chunk.Data = data
	}
	p.run()
	return nil
}

func (p *RunPiece) run() {
	p.Consumed = true
	p.Err = p.consume(&p.request)
	p.request.Reset()
}

// The fields that split knows.
const (
	fieldOpen      = 1 // of RunRequest
	fieldChunk     = 2
	fieldClose     = 3
	fieldChunkData = 2 // of Chunk
)

// split finds the chunk's data and puts all else into rest. What protobuf merges
// or overrides, it does so, too.
func (p *RunPiece) split(wire []byte) (data []byte, err error) {
	p.rest = p.rest[:0]
	for len(wire) > 0 {
		num, typ, n := protowire.ConsumeField(wire)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		whole := wire[:n]
		wire = wire[n:]
		if num != fieldChunk || typ != protowire.BytesType {
			if typ == protowire.BytesType && (num == fieldOpen || num == fieldClose) { // it drops the chunk
				data = nil
			}
			p.rest = append(p.rest, whole...)
			continue
		}
		_, _, tag := protowire.ConsumeTag(whole)
		chunk, _ := protowire.ConsumeBytes(whole[tag:])
		start := len(p.rest)
		var found []byte
		if found, err = p.splitChunk(chunk); err != nil {
			return nil, err
		}
		if found != nil {
			data = found
		}
		body := append([]byte(nil), p.rest[start:]...)
		p.rest = protowire.AppendTag(p.rest[:start], fieldChunk, protowire.BytesType)
		p.rest = protowire.AppendBytes(p.rest, body)
	}
	return data, nil
}

func (p *RunPiece) splitChunk(chunk []byte) (data []byte, err error) {
	for len(chunk) > 0 {
		num, typ, n := protowire.ConsumeField(chunk)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		if num == fieldChunkData && typ == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(chunk)
			value, _ := protowire.ConsumeBytes(chunk[tag:])
			data = value[:len(value):len(value)]
			if data == nil {
				data = []byte{}
			}
		} else {
			p.rest = append(p.rest, chunk[:n]...)
		}
		chunk = chunk[n:]
	}
	return data, nil
}
