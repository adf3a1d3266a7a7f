package codec

import (
	"fmt"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// A Level says how hard chunks are compressed.
type Level uint8

// The levels, each smaller and slower than the one before.
const (
	LevelAdaptive Level = iota // whichever of the others sends fastest at the time
	LevelRaw                   // not compressed
	LevelFastest
	LevelDefault
	LevelBetter

	levels = iota
)

var levelNames = [levels]string{"adaptive", "raw", "fastest", "default", "better"}

func (l Level) String() string {
	if l >= levels {
		return fmt.Sprintf("Level(%d)", uint8(l))
	}
	return levelNames[l]
}

// ParseLevel is the inverse of Level.String.
func ParseLevel(s string) (Level, error) {
	for l, name := range levelNames {
		if s == name {
			return Level(l), nil
		}
	}
	return 0, fmt.Errorf("unknown codec %q: choose one of %s", s, strings.Join(levelNames[:], ", "))
}

// levelEncoders are shared by all, as sharedEncoder is: a frame is made by one
// EncodeAll, as many at once as there are processors. For each of these an
// encoder keeps 1.7 MiB (fastest), 2.9 MiB (default) or 5.6 MiB (better) from its
// first use on.
var levelEncoders = [levels]func() *zstd.Encoder{
	LevelFastest: levelEncoder(zstd.SpeedFastest),
	LevelDefault: levelEncoder(zstd.SpeedDefault),
	LevelBetter:  levelEncoder(zstd.SpeedBetterCompression),
}

func levelEncoder(level zstd.EncoderLevel) func() *zstd.Encoder {
	return sync.OnceValue(func() *zstd.Encoder {
		return must(zstd.NewWriter(nil,
			zstd.WithEncoderLevel(level),
			zstd.WithEncoderConcurrency(0), // GOMAXPROCS
			zstd.WithWindowSize(messageWindow),
			zstd.WithLowerEncoderMem(true),
			zstd.WithEncoderCRC(false), // the chunk has one
			// Else only LevelBetter gains on base64 and the like, which has few
			// symbols and repeats nothing, and a trial at LevelFastest tells nothing.
			zstd.WithAllLitEntropyCompression(true),
		))
	})
}
