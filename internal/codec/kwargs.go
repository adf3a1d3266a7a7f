package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// ReservedPrefix starts the kwargs keys that are not the caller's.
	ReservedPrefix = "_aipod"
	// SizeKey is the kwargs key of the payload's uncompressed size in bytes.
	SizeKey = ReservedPrefix + "_bin_size"
	// MaxKwargs is the largest kwargs, in bytes of JSON.
	MaxKwargs = 4 << 20

	versionKey = "version"
)

// Kwargs is what the first message of a call says.
type Kwargs struct {
	// JSON is the caller's object, compact, without the reserved keys. The
	// version stays in it: the function gets it like any other argument.
	JSON json.RawMessage
	// Version of the model, empty when not given or null.
	Version string
	// Size of the payload in bytes, uncompressed, or -1 when not given.
	Size int64
	// Compressed says that the kwargs came as zstd; then the payload does, too,
	// and the result shall.
	Compressed bool
}

// ParseKwargs reads the data of a call's first message, JSON or the same
// compressed; it keeps nothing of first. Each error is a *PayloadError. Of a key
// that comes twice the last one counts, as in Python, but both stay in JSON.
func ParseKwargs(first []byte) (Kwargs, error) {
	k := Kwargs{Size: -1, Compressed: isZstd(first)}
	text := first
	if k.Compressed {
		var err error
		text, err = decodeAll(first, MaxKwargs)
		switch {
		case errors.Is(err, errTooLarge):
			return Kwargs{}, errKwargsSize()
		case err != nil:
			return Kwargs{}, payloadErrorf("the compressed kwargs are corrupt: %v", err)
		}
	}
	object, err := compactObject(text)
	if err != nil {
		return Kwargs{}, err
	}
	// What is kept is moved to the front of object, behind what is being read.
	kept := object[:1]
	err = eachMember(object, func(name, member, value []byte) error {
		if bytes.HasPrefix(name, []byte(ReservedPrefix)) {
			return k.reserved(name, value)
		}
		if string(name) == versionKey {
			if err := k.version(value); err != nil {
				return err
			}
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(kept, member...)
		return nil
	})
	if err != nil {
		return Kwargs{}, err
	}
	kept = append(kept, '}')
	k.JSON = kept
	return k, nil
}

func (k *Kwargs) reserved(name, value []byte) error {
	if string(name) != SizeKey {
		return payloadErrorf("kwargs: the key %q is not known, and keys that start with %s are reserved", name, ReservedPrefix)
	}
	size, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil {
		return payloadErrorf("kwargs: %s must be the payload's size in bytes, an integer from 0 to 2^63-1, not %s", SizeKey, excerpt(value))
	}
	k.Size = int64(size)
	return nil
}

func (k *Kwargs) version(value []byte) error {
	k.Version = ""
	if string(value) == "null" {
		return nil
	}
	if value[0] != '"' {
		return payloadErrorf("kwargs: %s must be a string, not %s", versionKey, kind(value))
	}
	return json.Unmarshal(value, &k.Version)
}

// EncodeKwargs makes the data of a call's first message from the caller's
// kwargs, a JSON object, or nothing for none. size is the payload's, in bytes,
// negative when it is not known. Each error is a *PayloadError.
func EncodeKwargs(kwargs json.RawMessage, size int64, compress bool) ([]byte, error) {
	if len(kwargs) == 0 {
		kwargs = json.RawMessage("{}")
	}
	object, err := compactObject(kwargs)
	if err != nil {
		return nil, err
	}
	err = eachMember(object, func(name, _, _ []byte) error {
		if bytes.HasPrefix(name, []byte(ReservedPrefix)) {
			return payloadErrorf("kwargs: the key %q must not start with %s", name, ReservedPrefix)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if size >= 0 {
		object = object[:len(object)-1]
		if len(object) > 1 {
			object = append(object, ',')
		}
		object = fmt.Appendf(object, "%q:%d}", SizeKey, size)
	}
	if len(object) > MaxKwargs {
		return nil, errKwargsSize()
	}
	if compress {
		object = encodeSized(object)
	}
	return object, nil
}

func errKwargsSize() error {
	return payloadErrorf("the kwargs are larger than %d MiB: send large data as the payload", MaxKwargs>>20)
}

// compactObject checks that text is one JSON object and returns a copy of it
// without whitespace.
func compactObject(text []byte) ([]byte, error) {
	switch {
	case len(text) > MaxKwargs:
		return nil, errKwargsSize()
	case len(bytes.TrimSpace(text)) == 0:
		return nil, payloadErrorf("the kwargs are empty: send a JSON object, {} for none")
	case !utf8.Valid(text):
		return nil, payloadErrorf("the kwargs are not JSON: invalid UTF-8 at byte %d", invalidUTF8(text))
	}
	var out bytes.Buffer
	out.Grow(len(text))
	if json.Compact(&out, text) != nil {
		return nil, syntaxError(text)
	}
	object := out.Bytes()
	if object[0] != '{' {
		return nil, payloadErrorf("the kwargs must be a JSON object, not %s", kind(object))
	}
	return object, nil
}

// syntaxError says what is wrong with text, which is not JSON, and where.
func syntaxError(text []byte) error {
	// A value that is complete, with more behind it?
	dec := json.NewDecoder(bytes.NewReader(text))
	if dec.Decode(new(json.RawMessage)) == nil {
		return payloadErrorf("the kwargs have something after the JSON value, from byte %d", dec.InputOffset())
	}
	err := json.Unmarshal(text, new(json.RawMessage))
	if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
		return payloadErrorf("the kwargs are not JSON: %v (byte %d)", syntax, syntax.Offset)
	}
	return payloadErrorf("the kwargs are not JSON: %v", err)
}

func invalidUTF8(text []byte) int {
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(text)
}

// kind names the type of a JSON value, with its article.
func kind(value []byte) string {
	switch value[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// excerpt is the start of a JSON value, for a message.
func excerpt(value []byte) string {
	const most = 40
	if len(value) <= most {
		return string(value)
	}
	return strings.ToValidUTF8(string(value[:most]), "") + "…"
}

// eachMember calls do for each member of a JSON object, which is valid and
// compact: its name, decoded, and the text of all of it and of its value. It
// allocates nothing for names without escapes, however many there are.
func eachMember(object []byte, do func(name, member, value []byte) error) error {
	for at := 1; object[at] != '}'; {
		if object[at] == ',' {
			at++
		}
		colon := valueEnd(object, at)
		end := valueEnd(object, colon+1)
		name, err := memberName(object[at:colon])
		if err != nil {
			return err
		}
		if err := do(name, object[at:end], object[colon+1:end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func memberName(quoted []byte) ([]byte, error) {
	plain := quoted[1 : len(quoted)-1]
	if !slices.Contains(plain, '\\') {
		return plain, nil
	}
	var name string
	err := json.Unmarshal(quoted, &name)
	return []byte(name), err
}

// valueEnd is the index after the JSON value that starts at text[i].
func valueEnd(text []byte, i int) int {
	for depth := 0; ; i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // of what the value, a number or word, is in
				return i
			}
			depth--
		case ',':
			if depth == 0 {
				return i
			}
			continue
		default:
			continue
		}
		if depth == 0 {
			return i + 1
		}
	}
}
