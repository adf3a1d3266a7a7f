package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// JSON is connect's codec for protobuf as JSON, which also decodes those InPlace
// messages that have a method Message() proto.Message: it makes the empty
// message that JSON is read into. They cost copies here.
func JSON() connect.Codec { return jsonCodec{name: "json"} }

// JSONUTF8 is JSON under the name that a charset in the content type makes of
// it. Handlers need both.
func JSONUTF8() connect.Codec { return jsonCodec{name: "json; charset=utf-8"} }

type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (c jsonCodec) Marshal(message any) ([]byte, error) {
	return c.MarshalAppend(nil, message)
}

func (jsonCodec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{}.MarshalAppend(dst, m)
}

// MarshalStable takes out the whitespace that protojson varies on purpose.
func (c jsonCodec) MarshalStable(message any) ([]byte, error) {
	text, err := c.Marshal(message)
	if err != nil {
		return nil, err
	}
	compact := bytes.NewBuffer(text[:0])
	if err := json.Compact(compact, text); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

func (jsonCodec) IsBinary() bool { return false }

func (c jsonCodec) Unmarshal(text []byte, message any) error {
	if len(text) == 0 {
		return errors.New("an empty message is not JSON: send {}")
	}
	if m, ok := message.(InPlace); ok {
		return c.unmarshalInPlace(text, m)
	}
	m, err := protoMessage(message)
	if err != nil {
		return err
	}
	// Unknown fields are dropped: client and server may be of different versions.
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, m); err != nil {
		return fmt.Errorf("unmarshal into %T: %w", message, err)
	}
	return nil
}

// unmarshalInPlace goes through the generated message and its binary encoding.
func (c jsonCodec) unmarshalInPlace(text []byte, message InPlace) error {
	maker, ok := message.(interface{ Message() proto.Message })
	if !ok {
		return fmt.Errorf("%T cannot be read from JSON", message)
	}
	m := maker.Message()
	if err := c.Unmarshal(text, m); err != nil {
		return err
	}
	wire, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("unmarshal into %T: %w", message, err)
	}
	return message.UnmarshalInPlace(wire)
}
