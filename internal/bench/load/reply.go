package load

import (
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/aipod/aipod/gen/ai"
	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
	"github.com/aipod/aipod/internal/codec"
)

// errWire is for what isn't protobuf.
var errWire = errors.New("malformed message")

// An inPlace is a codec that takes messages in without copying what they carry.
// Sending is the project's own codec's.
type inPlace struct{ connect.Codec }

// MarshalAppend lets connect use its pooled buffers.
func (inPlace) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

// A reply receives the messages of a Run or a WatchJob. It is reused, and belongs
// to the one who receives.
type reply struct {
	event  *aipodv1.Event                      // of all messages but output; valid until the next
	output func(c codec.Chunk, sum bool) error // sum: it has a checksum
	failed error                               // of output

	message aipodv1.RunResponse
}

// UnmarshalInPlace is for codec.InPlace. The two responses look the same: field 1
// is the event, and its field 7 the output.
func (r *reply) UnmarshalInPlace(wire []byte) error {
	r.event = nil
	if event, err := field(wire, 1); err == nil && event != nil {
		output, err := field(event, 7)
		if err == nil && output != nil {
			c, sum, err := parseChunk(output)
			if err != nil {
				return err
			}
			if err := r.output(c, sum); err != nil && r.failed == nil {
				r.failed = err
			}
			return nil
		}
	}
	r.message.Reset()
	if err := proto.Unmarshal(wire, &r.message); err != nil {
		return err
	}
	r.event = r.message.GetEvent()
	return nil
}

// field is the bytes of a message's field, the last of that number; nil if there
// is none.
func field(wire []byte, number protowire.Number) (found []byte, err error) {
	for len(wire) > 0 {
		num, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return nil, errWire
		}
		wire = wire[n:]
		if num == number && kind == protowire.BytesType {
			if found, n = protowire.ConsumeBytes(wire); n < 0 {
				return nil, errWire
			}
		} else if n = protowire.ConsumeFieldValue(num, kind, wire); n < 0 {
			return nil, errWire
		}
		wire = wire[n:]
	}
	return found, nil
}

// parseChunk reads an aipod.v1.Chunk, whose data stay where they are.
// sum says whether it has a checksum.
func parseChunk(wire []byte) (c codec.Chunk, sum bool, err error) {
	for len(wire) > 0 {
		num, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return c, false, errWire
		}
		wire = wire[n:]
		var v uint64
		switch kind {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(wire)
		case protowire.Fixed32Type:
			c.CRC32C, n = protowire.ConsumeFixed32(wire)
			sum = true
		case protowire.BytesType:
			c.Data, n = protowire.ConsumeBytes(wire)
		default:
			n = protowire.ConsumeFieldValue(num, kind, wire)
		}
		if n < 0 {
			return c, false, errWire
		}
		wire = wire[n:]
		switch num {
		case 1:
			c.Offset = int64(v)
		case 3:
			if aipodv1.Coding(v) == aipodv1.Coding_CODING_ZSTD {
				c.Coding = codec.CodingZstd
			}
		case 4:
			c.RawSize = int(v)
		}
	}
	if c.Coding == codec.CodingRaw {
		c.RawSize = len(c.Data)
	}
	return c, sum, nil
}

// A rawReply receives the messages of ai.AI.
type rawReply struct {
	pong   bool
	result func(data []byte) error
	failed error // of result
}

// UnmarshalInPlace is for codec.InPlace.
func (r *rawReply) UnmarshalInPlace(wire []byte) error {
	data, err := field(wire, 1)
	if err != nil {
		return err
	}
	if r.pong = string(data) == codec.Pong; !r.pong {
		r.failed = r.result(data)
	}
	return nil
}

// Both are what a codec may be asked to fill in place.
var _, _ codec.InPlace = (*reply)(nil), (*rawReply)(nil)

// rawOf is a message of ai.AI.
func rawOf(data []byte) *ai.Raw { return &ai.Raw{Data: data} }
