// Package measure records what a load does: latencies, bytes, errors and what
// the processes took for it. Memory is constant, however long the load lasts.
//
// It neither makes load nor prints anything; a Report is what others read.
package measure

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	// maxValue is the longest time that is told from longer ones, in µs: a day.
	maxValue = int64(24 * time.Hour / time.Microsecond)
	// digits is how many significant decimal digits a value keeps.
	digits = 3
)

// A Histogram counts durations, in µs with three significant digits, from 1 µs to
// a day. It is not safe for concurrent use.
//
// Its JSON form has, besides some percentiles for people and scripts, all of it
// in HdrHistogram's compressed encoding (V2, base64), which any tool of that
// project reads.
type Histogram struct{ h *hdrhistogram.Histogram }

// NewHistogram makes an empty Histogram.
func NewHistogram() *Histogram {
	return &Histogram{hdrhistogram.New(1, maxValue, digits)}
}

// Record counts a duration; what is out of range counts as the nearest that is in.
func (h *Histogram) Record(d time.Duration) {
	v := int64((d + time.Microsecond/2) / time.Microsecond)
	_ = h.h.RecordValue(min(max(v, 0), maxValue)) // always in range
}

// Merge adds what another Histogram has counted.
func (h *Histogram) Merge(other *Histogram) { h.h.Merge(other.h) }

// Reset forgets everything.
func (h *Histogram) Reset() { h.h.Reset() }

// Count is how many durations were counted; 0 for nil.
func (h *Histogram) Count() int64 {
	if h == nil {
		return 0
	}
	return h.h.TotalCount()
}

// Percentile is the duration that p percent, 0 to 100, are not above; 0 if there
// are none.
func (h *Histogram) Percentile(p float64) time.Duration {
	if h.Count() == 0 {
		return 0
	}
	if p >= 100 {
		return h.Max()
	}
	return min(micros(h.h.ValueAtPercentile(p)), h.Max())
}

// Max, Min and Mean are 0 if there is nothing.
func (h *Histogram) Max() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return micros(h.h.Max())
}

// Min is the shortest.
func (h *Histogram) Min() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return micros(h.h.Min())
}

// Mean is the average.
func (h *Histogram) Mean() time.Duration {
	if h.Count() == 0 {
		return 0
	}
	return time.Duration(h.h.Mean() * float64(time.Microsecond))
}

// Equal says whether both have counted the same.
func (h *Histogram) Equal(other *Histogram) bool {
	if h == nil || other == nil {
		return h.Count() == other.Count()
	}
	return h.h.Equals(other.h)
}

func micros(v int64) time.Duration { return time.Duration(v) * time.Microsecond }

// histogramJSON is a Histogram as JSON: times in µs.
type histogramJSON struct {
	Unit  string  `json:"unit"`
	Count int64   `json:"count"`
	Min   int64   `json:"min"`
	Mean  float64 `json:"mean"`
	P50   int64   `json:"p50"`
	P90   int64   `json:"p90"`
	P99   int64   `json:"p99"`
	P999  int64   `json:"p99.9"`
	Max   int64   `json:"max"`
	HDR   string  `json:"hdr"`
}

// MarshalJSON is for json.Marshaler.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	hdr, err := h.h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return nil, fmt.Errorf("encode histogram: %w", err)
	}
	at := func(p float64) int64 { return h.Percentile(p).Microseconds() }
	return json.Marshal(histogramJSON{
		Unit: "us", Count: h.Count(), Min: h.Min().Microseconds(), Mean: h.h.Mean(),
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: h.Max().Microseconds(), HDR: string(hdr),
	})
}

// UnmarshalJSON is for json.Unmarshaler. Only the encoded form is read.
func (h *Histogram) UnmarshalJSON(text []byte) error {
	var v histogramJSON
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	if v.Unit != "us" {
		return fmt.Errorf("decode histogram: the unit is %q, not us", v.Unit)
	}
	decoded, err := hdrhistogram.Decode([]byte(v.HDR))
	if err != nil {
		return fmt.Errorf("decode histogram: %w", err)
	}
	h.h = decoded
	return nil
}
