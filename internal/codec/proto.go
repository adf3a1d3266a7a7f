package codec

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// InPlace is a message that is consumed while it is decoded, instead of kept.
type InPlace interface {
	// UnmarshalInPlace reads the protobuf encoding of the message. wire, and
	// every slice of it, is valid only during the call. The error is for what is
	// wrong with wire; connect reports it as an invalid argument.
	UnmarshalInPlace(wire []byte) error
}

// Proto is connect's codec for binary protobuf, which also decodes InPlace
// messages without copying.
func Proto() connect.Codec { return protoCodec{} }

// protoCodec has all that connect's own has: MarshalAppend into pooled buffers,
// MarshalStable and IsBinary for GET requests.
type protoCodec struct{}

func (protoCodec) Name() string { return "proto" }

func (protoCodec) Marshal(message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(m)
}

func (protoCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

func (protoCodec) MarshalStable(message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

func (protoCodec) IsBinary() bool { return true }

func (protoCodec) Unmarshal(wire []byte, message any) error {
	if m, ok := message.(InPlace); ok {
		return m.UnmarshalInPlace(wire)
	}
	m, err := protoMessage(message)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(wire, m); err != nil {
		return fmt.Errorf("unmarshal into %T: %w", message, err)
	}
	return nil
}

func protoMessage(message any) (proto.Message, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is not a protobuf message", message)
	}
	return m, nil
}
