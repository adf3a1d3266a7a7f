package codec

import (
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	aipodv1 "github.com/aipod/aipod/gen/aipod/v1"
)

// samePiece checks that a RunPiece reads what protobuf reads, or refuses what it
// refuses.
func samePiece(t *testing.T, wire []byte) {
	t.Helper()
	want := new(aipodv1.RunRequest)
	wantErr := proto.Unmarshal(wire, want)
	var got proto.Message
	p := NewRunPiece(func(r *aipodv1.RunRequest) error {
		got = proto.Clone(r)
		return nil
	})
	if err := p.UnmarshalInPlace(wire); (err != nil) != (wantErr != nil) {
		t.Fatalf("%x: %v, but protobuf: %v", wire, err, wantErr)
	}
	if wantErr == nil {
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Fatalf("%x (-protobuf +piece):\n%s", wire, diff)
		}
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func chunkRequest(data string) *aipodv1.RunRequest {
	sum := Checksum([]byte(data))
	return &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Chunk{Chunk: &aipodv1.Chunk{
		Offset: 7, Data: []byte(data), Coding: aipodv1.Coding_CODING_RAW, RawSize: int32(len(data)), Crc32C: &sum,
	}}}
}

func runRequests(t testing.TB) [][]byte {
	chunk := marshal(t, chunkRequest("some data"))
	open := marshal(t, &aipodv1.RunRequest{Message: &aipodv1.RunRequest_Open{Open: &aipodv1.Open{JobId: "a"}}})
	end := marshal(t, &aipodv1.RunRequest{Message: &aipodv1.RunRequest_CloseInput{CloseInput: &aipodv1.CloseInput{Size: 3}}})
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	return [][]byte{
		nil, chunk, open, end, join(chunk, chunk), join(chunk, open), join(open, chunk), join(chunk, end, chunk),
		marshal(t, chunkRequest("")), {0x12, 0x00}, {0x12, 0x02, 0x12, 0x00}, join(chunk, []byte{0x12, 0x00}),
		chunk[:len(chunk)-1], {0x10, 0x01}, {0x12, 0x02, 0x10, 0x01}, join(chunk, []byte{0x22, 0x00}),
	}
}

func TestRunPieceReadsWhatProtobufDoes(t *testing.T) {
	for _, wire := range runRequests(t) {
		samePiece(t, wire)
	}
}

func FuzzRunPiece(f *testing.F) {
	for _, wire := range runRequests(f) {
		f.Add(wire)
	}
	f.Fuzz(samePiece)
}

// A stream of messages, as connect decodes them.
type wireStream struct{ messages [][]byte }

func (s *wireStream) Receive(message any) error {
	if len(s.messages) == 0 {
		return io.EOF
	}
	wire := s.messages[0]
	s.messages = s.messages[1:]
	if len(wire) == 0 {
		return nil // as connect does
	}
	return Proto().Unmarshal(wire, message)
}

func TestRunPieceReceive(t *testing.T) {
	cause := errors.New("no")
	var got []string
	p := NewRunPiece(func(r *aipodv1.RunRequest) error {
		got = append(got, string(r.GetChunk().GetData()))
		if len(got) == 3 {
			return cause
		}
		return nil
	})
	s := &wireStream{[][]byte{marshal(t, chunkRequest("one")), nil, marshal(t, chunkRequest("three"))}}
	for range 2 {
		if err := p.Receive(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Receive(s); !errors.Is(err, cause) || !errors.Is(p.Err, cause) {
		t.Errorf("%v, want the consumer's error", err)
	}
	if err := p.Receive(s); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want io.EOF", err)
	}
	if diff := cmp.Diff([]string{"one", "", "three"}, got); diff != "" {
		t.Error(diff)
	}
}

// What it costs to receive a chunk doesn't depend on its size.
func TestRunPieceAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	wire := marshal(t, chunkRequest(string(make([]byte, DefaultChunk))))
	p := NewRunPiece(func(*aipodv1.RunRequest) error { return nil })
	result := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := p.UnmarshalInPlace(wire); err != nil {
				b.Fatal(err)
			}
		}
	})
	if got := result.AllocedBytesPerOp(); got > 512 {
		t.Errorf("%d bytes allocated for a chunk", got)
	}
}
