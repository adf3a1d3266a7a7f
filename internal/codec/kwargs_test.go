package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func TestParseKwargs(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want Kwargs
	}{
		"none":            {`{}`, Kwargs{JSON: json.RawMessage(`{}`), Size: -1}},
		"space":           {" \n{ \"a\" : [ 1, {\"b\": 2} ] }\t", Kwargs{JSON: json.RawMessage(`{"a":[1,{"b":2}]}`), Size: -1}},
		"size only":       {`{"_aipod_bin_size": 0}`, Kwargs{JSON: json.RawMessage(`{}`), Size: 0}},
		"size first":      {`{"_aipod_bin_size": 7, "a": 1, "b": 2}`, Kwargs{JSON: json.RawMessage(`{"a":1,"b":2}`), Size: 7}},
		"size between":    {`{"a": 1, "_aipod_bin_size": 7, "b": "}"}`, Kwargs{JSON: json.RawMessage(`{"a":1,"b":"}"}`), Size: 7}},
		"size last":       {`{"a": 1, "_aipod_bin_size": 9223372036854775807}`, Kwargs{JSON: json.RawMessage(`{"a":1}`), Size: math.MaxInt64}},
		"size twice":      {`{"_aipod_bin_size": 7, "_aipod_bin_size": 8}`, Kwargs{JSON: json.RawMessage(`{}`), Size: 8}},
		"size escaped":    {`{"\u005faipod_bin_size": 7, "a\\": 1}`, Kwargs{JSON: json.RawMessage(`{"a\\":1}`), Size: 7}},
		"size nested":     {`{"a": {"_aipod_bin_size": "x", "version": 1}}`, Kwargs{JSON: json.RawMessage(`{"a":{"_aipod_bin_size":"x","version":1}}`), Size: -1}},
		"version":         {`{"version": "v1"}`, Kwargs{JSON: json.RawMessage(`{"version":"v1"}`), Version: "v1", Size: -1}},
		"version null":    {`{"version": null}`, Kwargs{JSON: json.RawMessage(`{"version":null}`), Size: -1}},
		"version twice":   {`{"version": "v1", "version": "v2"}`, Kwargs{JSON: json.RawMessage(`{"version":"v1","version":"v2"}`), Version: "v2", Size: -1}},
		"version empty":   {`{"version": ""}`, Kwargs{JSON: json.RawMessage(`{"version":""}`), Size: -1}},
		"version escapes": {`{"version": "\u00e9\n"}`, Kwargs{JSON: json.RawMessage(`{"version":"\u00e9\n"}`), Version: "é\n", Size: -1}},
		"all values":      {`{"a":null,"b":true,"c":-1.5e3,"d":"\"{","e":[],"f":{},"g":[[{"h":"]"}]]}`, Kwargs{JSON: json.RawMessage(`{"a":null,"b":true,"c":-1.5e3,"d":"\"{","e":[],"f":{},"g":[[{"h":"]"}]]}`), Size: -1}},
		"empty name":      {`{"":1,"_aipo":2}`, Kwargs{JSON: json.RawMessage(`{"":1,"_aipo":2}`), Size: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, compressed := range []bool{false, true} {
				first := []byte(test.text)
				if compressed {
					first = encode(t, first)
				}
				got, err := ParseKwargs(first)
				if err != nil {
					t.Fatal(err)
				}
				clear(first) // nothing of it may have been kept
				want := test.want
				want.Compressed = compressed
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func TestParseKwargsRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want string
	}{
		"empty":            {"", "are empty"},
		"space":            {" \n", "are empty"},
		"not JSON":         {`{"a": x}`, "not JSON: invalid character 'x' looking for beginning of value (byte 7)"},
		"cut":              {`{"a": 1`, "not JSON: unexpected end of JSON input (byte 7)"},
		"word":             {"PONG", "not JSON: invalid character 'P'"},
		"not UTF-8":        {"{\"a\": \"\xff\"}", "invalid UTF-8 at byte 7"},
		"NaN":              {`{"a": NaN}`, "invalid character 'N'"},
		"deep":             {`{"a": ` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + "}", "max depth"},
		"array":            {`[1]`, "object, not an array"},
		"string":           {`"a"`, "object, not a string"},
		"number":           {`-1`, "object, not a number"},
		"boolean":          {`true`, "object, not a boolean"},
		"null":             {`null`, "object, not null"},
		"trailing":         {`{"a": 1} x`, "something after the JSON value, from byte 8"},
		"two objects":      {`{}{}`, "something after the JSON value, from byte 2"},
		"reserved":         {`{"_aipod_x": 1}`, `"_aipod_x" is not known`},
		"reserved bare":    {`{"a": 1, "_aipod": 1}`, `"_aipod" is not known`},
		"reserved escaped": {`{"\u005faipod_x": 1}`, `"_aipod_x" is not known`},
		"size negative":    {`{"_aipod_bin_size": -1}`, "not -1"},
		"size fraction":    {`{"_aipod_bin_size": 1.0}`, "not 1.0"},
		"size exponent":    {`{"_aipod_bin_size": 1e3}`, "not 1e3"},
		"size too large":   {`{"_aipod_bin_size": 9223372036854775808}`, "not 9223372036854775808"},
		"size a string":    {`{"_aipod_bin_size": "1"}`, `not "1"`},
		"size null":        {`{"_aipod_bin_size": null}`, "not null"},
		"size long":        {`{"_aipod_bin_size": "` + strings.Repeat("é", 999) + `"}`, "…"},
		"version number":   {`{"version": 1}`, "version must be a string, not a number"},
		"version object":   {`{"version": {}}`, "version must be a string, not an object"},
		"too large":        {`{"a": "` + strings.Repeat("x", MaxKwargs) + `"}`, "larger than 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseKwargs([]byte(test.text))
			wantPayloadError(t, err, test.want)
			_, err = ParseKwargs(encode(t, []byte(test.text)))
			wantPayloadError(t, err, test.want)
		})
	}
}

func TestParseKwargsLimit(t *testing.T) {
	for _, n := range []int{MaxKwargs, MaxKwargs + 1} {
		text := []byte(`{"a":"` + strings.Repeat("x", n-8) + `"}`)
		var stream bytes.Buffer // a frame that does not state its size
		enc, err := NewEncoder(&stream, zstd.SpeedFastest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := enc.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		for name, first := range map[string][]byte{"plain": text, "frame": encode(t, text), "stream": stream.Bytes()} {
			k, err := ParseKwargs(first)
			if n > MaxKwargs {
				wantPayloadError(t, err, "larger than 4 MiB")
			} else if err != nil || len(k.JSON) != n {
				t.Errorf("%s of %d bytes: %d bytes, %v", name, n, len(k.JSON), err)
			}
		}
	}
}

func TestParseKwargsCorrupt(t *testing.T) {
	first := encode(t, []byte(`{"a": 1, "version": "v1"}`))
	for n := len(zstdMagic); n < len(first); n++ {
		_, err := ParseKwargs(first[:n])
		wantPayloadError(t, err, "compressed kwargs are corrupt")
	}
	_, err := ParseKwargs(append(bytes.Clone(first), "garbage"...))
	wantPayloadError(t, err, "compressed kwargs are corrupt")
	if k, err := ParseKwargs(bytes.Join([][]byte{encode(t, []byte(`{"a"`)), encode(t, []byte(`:1}`))}, nil)); err != nil || string(k.JSON) != `{"a":1}` {
		t.Errorf("two frames: %s, %v", k.JSON, err)
	}
}

// Neither a bomb nor a lie about its size makes ParseKwargs take memory.
func TestParseKwargsBomb(t *testing.T) {
	zeros := make([]byte, 16<<20)
	var stream bytes.Buffer
	enc, err := NewEncoder(&stream, zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = enc.Write(zeros)
	_ = enc.Close()
	many := bytes.Repeat(encode(t, zeros[:1<<20]), 16)
	huge := append(windowHeader(1<<35), 0x01, 0, 0) // 32 GiB of window, no content
	for name, test := range map[string]struct {
		first []byte
		want  string
	}{
		"frame":  {encode(t, zeros), "larger than 4 MiB"},
		"stream": {stream.Bytes(), "larger than 4 MiB"},
		"frames": {many, "larger than 4 MiB"},
		"window": {huge, "are empty"},
	} {
		var err error
		wholeDecoder()
		if got := allocated(func() { _, err = ParseKwargs(test.first) }); got > 4*MaxKwargs {
			t.Errorf("%s: allocated %d bytes", name, got)
		}
		wantPayloadError(t, err, test.want)
	}
	// Many small members must cost no more than their text.
	var text strings.Builder
	for i := 0; text.Len() < MaxKwargs-100; i++ {
		fmt.Fprintf(&text, `,"%d":%d`, i, i)
	}
	first := []byte("{" + text.String()[1:] + "}")
	if got := allocated(func() { _, err = ParseKwargs(first) }); got > 3*MaxKwargs || err != nil {
		t.Errorf("many members: allocated %d bytes, %v", got, err)
	}
}

func TestEncodeKwargs(t *testing.T) {
	for name, test := range map[string]struct {
		kwargs string
		size   int64
		want   string
	}{
		"nothing":      {``, -1, `{}`},
		"empty":        {`{}`, -1, `{}`},
		"size only":    {``, 0, `{"_aipod_bin_size":0}`},
		"both":         {`{"a": 1}`, 7, `{"a":1,"_aipod_bin_size":7}`},
		"large":        {`{"a":{}}`, math.MaxInt64, `{"a":{},"_aipod_bin_size":9223372036854775807}`},
		"version kept": {`{"version": "v"}`, -1, `{"version":"v"}`},
	} {
		t.Run(name, func(t *testing.T) {
			kwargs := []byte(test.kwargs)
			plain, err := EncodeKwargs(kwargs, test.size, false)
			if err != nil || string(plain) != test.want {
				t.Fatalf("got %s, %v", plain, err)
			}
			if string(kwargs) != test.kwargs {
				t.Errorf("the argument became %s", kwargs)
			}
			packed, err := EncodeKwargs(kwargs, test.size, true)
			if err != nil || !isZstd(packed) {
				t.Fatalf("got %x, %v", packed, err)
			}
			for _, first := range [][]byte{plain, packed} {
				if k, err := ParseKwargs(first); err != nil || k.Size != test.size {
					t.Errorf("read back: %+v, %v", k, err)
				}
			}
		})
	}
	for kwargs, want := range map[string]string{
		`[]`:                     "not an array",
		`null`:                   "not null",
		`{`:                      "not JSON",
		`{"_aipod_bin_size": 1}`: `"_aipod_bin_size" must not start with _aipod`,
		`{"a":1,"_aipod": 1}`:    `"_aipod" must not start with _aipod`,
		`{"a":"` + strings.Repeat("x", MaxKwargs-8) + `"}`: "larger than 4 MiB",
	} {
		_, err := EncodeKwargs([]byte(kwargs), 1, false)
		wantPayloadError(t, err, want)
	}
}

// FuzzParseKwargs: what is accepted can be encoded again, and means the same.
func FuzzParseKwargs(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a": [1, {"b": "}"}], "_aipod_bin_size": 7, "version": "v1"}`, `{"version":null,"\u005faipod_bin_size":0}`,
		`{"a":1} x`, `[1]`, `{"_aipod":1}`,
	} {
		f.Add([]byte(s))
		f.Add(encode(f, []byte(s)))
	}
	f.Fuzz(func(t *testing.T, first []byte) {
		before := bytes.Clone(first)
		k, err := ParseKwargs(first)
		if !bytes.Equal(before, first) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			wantPayloadError(t, err)
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(k.JSON, &members); err != nil || members == nil {
			t.Fatalf("%q is no object: %v", k.JSON, err)
		}
		for name := range members {
			if strings.HasPrefix(name, ReservedPrefix) {
				t.Fatalf("%q is left in %q", name, k.JSON)
			}
		}
		again, err := EncodeKwargs(k.JSON, k.Size, k.Compressed)
		if err != nil {
			if len(k.JSON)+len(SizeKey)+30 > MaxKwargs {
				return // the size did not fit any more
			}
			t.Fatal(err)
		}
		back, err := ParseKwargs(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(k, back); diff != "" {
			t.Error(diff)
		}
	})
}
