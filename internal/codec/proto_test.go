package codec

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/aipod/aipod/gen/ai"
)

// wire builds the encoding of a message, field by field.
type wire []byte

func (w wire) bytes(num protowire.Number, v string) wire {
	return protowire.AppendString(protowire.AppendTag(w, num, protowire.BytesType), v)
}

func (w wire) varint(num protowire.Number, v uint64) wire {
	return protowire.AppendVarint(protowire.AppendTag(w, num, protowire.VarintType), v)
}

func (w wire) group(num protowire.Number, v wire) wire {
	return protowire.AppendGroup(protowire.AppendTag(w, num, protowire.StartGroupType), num, v)
}

// got is what a Piece had while it was consumed.
type got struct {
	Kwargs, Version, Data string
	Consumed              bool
}

// unmarshal decodes into a Piece of the type that input says.
func unmarshal(c connect.Codec, data []byte, input bool) (got, error) {
	var g got
	consume := func(p *Piece) error {
		g = got{string(p.Kwargs), p.Version, string(p.Data), p.Consumed}
		return nil
	}
	piece := NewRawPiece(consume)
	if input {
		piece = NewInputPiece(consume)
	}
	return g, errors.Join(c.Unmarshal(data, piece), piece.Err)
}

func TestPieceReadsWhatProtobufDoes(t *testing.T) {
	raw := wire{}.bytes(1, "data")
	for name, test := range map[string]struct {
		wire  wire
		input bool
		want  got
	}{
		"raw":              {raw, false, got{"", "", "data", true}},
		"raw empty":        {wire{}.bytes(1, ""), false, got{"", "", "", true}},
		"raw last wins":    {wire{}.bytes(1, "a").bytes(1, "b"), false, got{"", "", "b", true}},
		"raw emptied":      {wire{}.bytes(1, "a").bytes(1, ""), false, got{"", "", "", true}},
		"raw unknown":      {wire{}.varint(2, 7).bytes(1, "a").bytes(3, "x").group(9, wire{}.varint(1, 1)), false, got{"", "", "a", true}},
		"raw unknown only": {wire{}.varint(2, 7), false, got{"", "", "", true}},
		"input":            {wire{}.bytes(1, "{}").bytes(2, "v1").bytes(3, string(raw)), true, got{"{}", "v1", "data", true}},
		"input reversed":   {wire{}.bytes(3, string(raw)).bytes(2, "v1").bytes(1, "{}"), true, got{"{}", "v1", "data", true}},
		"input last wins":  {wire{}.bytes(1, "a").bytes(2, "x").bytes(1, "b").bytes(2, "y"), true, got{"b", "y", "", true}},
		"input raws merge": {wire{}.bytes(3, string(raw)).bytes(3, ""), true, got{"", "", "data", true}},
		"input raws twice": {wire{}.bytes(3, string(raw)).bytes(3, string(wire{}.bytes(1, "z"))), true, got{"", "", "z", true}},
		"input unknown":    {wire{}.varint(4, 1).bytes(2, "é").bytes(900, "x"), true, got{"", "é", "", true}},
	} {
		t.Run(name, func(t *testing.T) {
			have, err := unmarshal(Proto(), test.wire, test.input)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, have); diff != "" {
				t.Error(diff)
			}
			if want := reference(t, test.wire, test.input); want != have {
				t.Errorf("protobuf reads %+v, Piece %+v", want, have)
			}
			// Cut anywhere but between fields it is an error, and always harmless.
			for n := range test.wire {
				cut, err := unmarshal(Proto(), test.wire[:n:n], test.input)
				if proto.Unmarshal(test.wire[:n:n], message(test.input)) != nil {
					if err == nil || cut.Consumed {
						t.Errorf("cut after %d of %d bytes: %+v, %v", n, len(test.wire), cut, err)
					}
				} else if err != nil {
					t.Errorf("cut after %d of %d bytes: %v", n, len(test.wire), err)
				}
			}
		})
	}
}

func message(input bool) proto.Message {
	if input {
		return new(ai.StreamInput)
	}
	return new(ai.Raw)
}

// reference decodes with the generated code.
func reference(t *testing.T, w []byte, input bool) got {
	t.Helper()
	m := message(input)
	if err := proto.Unmarshal(w, m); err != nil {
		t.Fatal(err)
	}
	if in, ok := m.(*ai.StreamInput); ok {
		return got{string(in.GetKwargsJson()), in.GetVersion(), string(in.GetRaw().GetData()), true}
	}
	return got{"", "", string(m.(*ai.Raw).GetData()), true}
}

func TestPieceRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		wire  wire
		input bool
		want  string
	}{
		"version not UTF-8": {wire{}.bytes(2, "\xff"), true, "version is not UTF-8"},
		"data a number":     {wire{}.varint(1, 1), false, "ai.Raw: field 1: wrong wire type"},
		"kwargs a number":   {wire{}.varint(1, 1), true, "ai.StreamInput: field 1: wrong wire type"},
		"raw a number":      {wire{}.varint(3, 1), true, "field 3: wrong wire type"},
		"raw malformed":     {wire{}.bytes(3, "\x0a\x05ab"), true, "ai.Raw: field 1: unexpected EOF"},
		"field zero":        {wire{0x02, 0x00}, false, "invalid field number"},
		"field too large":   {protowire.AppendVarint(nil, 1<<32), false, "invalid field number"},
		"open group":        {wire{0x13}, false, "unexpected EOF"},
		"length too long":   {wire{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f}, false, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			have, err := unmarshal(Proto(), test.wire, test.input)
			if err == nil || !strings.Contains(err.Error(), test.want) || have.Consumed {
				t.Errorf("got %+v, %v; want %q", have, err, test.want)
			}
		})
	}
}

func TestPieceAliasesAndLetsGo(t *testing.T) {
	data := []byte(wire{}.bytes(1, "{}").bytes(3, string(wire{}.bytes(1, "data"))))
	piece := NewInputPiece(func(p *Piece) error {
		if &p.Data[3] != &data[len(data)-1] || &p.Kwargs[0] != &data[2] {
			t.Error("the data were copied")
		}
		return nil
	})
	if err := Proto().Unmarshal(data, piece); err != nil {
		t.Fatal(err)
	}
	if piece.Kwargs != nil || piece.Data != nil || !piece.Consumed {
		t.Errorf("left with %+v", piece)
	}
}

func TestPieceKeepsTheConsumersError(t *testing.T) {
	want := errors.New("disk full")
	piece := NewRawPiece(func(*Piece) error { return want })
	if err := Proto().Unmarshal(wire{}.bytes(1, "x"), piece); err != nil {
		t.Errorf("Unmarshal: %v", err)
	}
	if piece.Err != want { //nolint:errorlint // unchanged
		t.Errorf("Err: %v", piece.Err)
	}
	if err := Proto().Unmarshal([]byte{0xff}, piece); err == nil || piece.Err != nil || piece.Consumed {
		t.Errorf("after a malformed message: %v, left with %+v", err, piece)
	}
}

// conn is a stream of encoded messages, which treats empty ones as connect does.
type conn struct {
	messages [][]byte
}

func (c *conn) Receive(m any) error {
	if len(c.messages) == 0 {
		return io.EOF
	}
	data := c.messages[0]
	c.messages = c.messages[1:]
	if len(data) == 0 {
		return nil
	}
	return Proto().Unmarshal(data, m)
}

func TestPieceReceive(t *testing.T) {
	var have []string
	stop := errors.New("stop")
	piece := NewRawPiece(func(p *Piece) error {
		have = append(have, string(p.Data))
		if string(p.Data) == "b" {
			return stop
		}
		return nil
	})
	c := &conn{messages: [][]byte{wire{}.bytes(1, "a"), nil, wire{}.bytes(1, "b"), nil, {0xff}, nil}}
	var errs []error
	for range 7 {
		errs = append(errs, piece.Receive(c))
	}
	if diff := cmp.Diff([]string{"a", "", "b", "", ""}, have); diff != "" {
		t.Error(diff)
	}
	for i, want := range []error{nil, nil, stop, nil, errs[4], nil, io.EOF} {
		if errs[i] != want { //nolint:errorlint // unchanged
			t.Errorf("message %d: %v, want %v", i, errs[i], want)
		}
	}
	if errs[4] == nil {
		t.Error("a malformed message was received")
	}
}

func TestPieceAllocatesNothing(t *testing.T) {
	data := bytes.Repeat([]byte("x"), 64<<10)
	var n int
	consume := func(p *Piece) error { n += len(p.Data); return nil }
	for name, test := range map[string]struct {
		piece *Piece
		wire  []byte
	}{
		"raw":   {NewRawPiece(consume), wire{}.bytes(1, string(data))},
		"input": {NewInputPiece(consume), wire{}.bytes(1, "{}").bytes(2, "v1").bytes(3, string(wire{}.bytes(1, string(data))))},
	} {
		c := &conn{}
		messages := [][]byte{test.wire, nil}
		if got := testing.AllocsPerRun(100, func() {
			c.messages = messages
			for range messages {
				if err := test.piece.Receive(c); err != nil {
					t.Fatal(err)
				}
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
}

func TestMarshalAppendAllocatesNothing(t *testing.T) {
	c := Proto().(interface {
		MarshalAppend(dst []byte, message any) ([]byte, error)
	})
	m := &ai.Raw{Data: make([]byte, 64<<10)}
	buf := make([]byte, 0, 65<<10)
	if got := testing.AllocsPerRun(100, func() {
		if out, err := c.MarshalAppend(buf, m); err != nil || len(out) != 64<<10+4 {
			t.Fatal(len(out), err)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// stable is what connect asks of codecs for GET requests.
type stable interface {
	connect.Codec
	MarshalAppend(dst []byte, message any) ([]byte, error)
	MarshalStable(message any) ([]byte, error)
	IsBinary() bool
}

func TestCodecs(t *testing.T) {
	m := &ai.StreamInput{KwargsJson: []byte("{}"), Version: "v", Raw: &ai.Raw{Data: []byte("data")}}
	const text = `{"kwargsJson":"e30=","version":"v","raw":{"data":"ZGF0YQ=="}}`
	for name, c := range map[string]connect.Codec{"proto": Proto(), "json": JSON(), "json; charset=utf-8": JSONUTF8()} {
		t.Run(name, func(t *testing.T) {
			s := c.(stable)
			if s.Name() != name || s.IsBinary() != (name == "proto") {
				t.Errorf("name %q, binary %v", s.Name(), s.IsBinary())
			}
			plain, err := s.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			appended, err := s.MarshalAppend([]byte("before"), m)
			if err != nil || !bytes.HasPrefix(appended, []byte("before")) {
				t.Fatalf("%q, %v", appended, err)
			}
			fixed, err := s.MarshalStable(m)
			if err != nil {
				t.Fatal(err)
			}
			if name != "proto" && string(fixed) != text {
				t.Errorf("stable: %s", fixed)
			}
			for _, data := range [][]byte{plain, appended[len("before"):], fixed} {
				back := new(ai.StreamInput)
				if err := s.Unmarshal(data, back); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(m, back, protocmp.Transform()); diff != "" {
					t.Error(diff)
				}
				g, err := unmarshal(s, data, true)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(got{"{}", "v", "data", true}, g); diff != "" {
					t.Error(diff)
				}
			}
			if err := s.Unmarshal([]byte("\xff"), new(ai.Raw)); err == nil {
				t.Error("garbage was decoded")
			}
			if err := s.Unmarshal([]byte("{}"), "text"); err == nil {
				t.Error("decoded into a string")
			}
			if _, err := s.Marshal("text"); err == nil {
				t.Error("encoded a string")
			}
			if _, err := s.MarshalAppend(nil, "text"); err == nil {
				t.Error("encoded a string")
			}
			if _, err := s.MarshalStable("text"); err == nil {
				t.Error("encoded a string")
			}
		})
	}
}

func TestJSONMessages(t *testing.T) {
	if err := JSON().Unmarshal(nil, new(ai.Raw)); err == nil {
		t.Error("no bytes were decoded")
	}
	if err := JSON().Unmarshal([]byte(`{"later":1,"data":"eA=="}`), new(ai.Raw)); err != nil {
		t.Errorf("unknown field: %v", err)
	}
	for text, want := range map[string]got{
		`{}`:              {"", "", "", true},
		`{"data":"eA=="}`: {"", "", "x", true},
	} {
		if g, err := unmarshal(JSON(), []byte(text), false); err != nil || g != want {
			t.Errorf("%s: %+v, %v", text, g, err)
		}
	}
	if g, err := unmarshal(JSON(), []byte(`{"data":1}`), false); err == nil || g.Consumed {
		t.Errorf("a number as data: %+v, %v", g, err)
	}
	if err := JSON().Unmarshal([]byte(`{}`), inPlaceOnly{}); err == nil {
		t.Error("decoded into what has no Message")
	}
}

type inPlaceOnly struct{}

func (inPlaceOnly) UnmarshalInPlace([]byte) error { return nil }

// FuzzPiece: what a Piece accepts, protobuf reads the same.
func FuzzPiece(f *testing.F) {
	f.Add([]byte(wire{}.bytes(1, "data")), false)
	f.Add([]byte(wire{}.bytes(1, "{}").bytes(2, "v1").bytes(3, string(wire{}.bytes(1, "d")))), true)
	f.Add([]byte(wire{}.varint(7, 1).group(9, wire{}.varint(1, 1)).bytes(1, "x")), false)
	f.Fuzz(func(t *testing.T, data []byte, input bool) {
		have, err := unmarshal(Proto(), data, input)
		switch {
		case err == nil:
			if want := reference(t, data, input); want != have {
				t.Errorf("protobuf reads %+v, Piece %+v", want, have)
			}
		case have.Consumed:
			t.Errorf("consumed in spite of %v", err)
		case proto.Unmarshal(data, message(input)) == nil && !errors.Is(err, errFieldType):
			t.Errorf("protobuf reads it, Piece: %v", err)
		}
	})
}
