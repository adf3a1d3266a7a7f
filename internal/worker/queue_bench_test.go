package worker

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkQueue has so many callers call, one after the other, through one slot.
func BenchmarkQueue(b *testing.B) {
	for _, callers := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			p := NewPool(&fakeModel{}, Config{Instances: 1, Slots: 1, Queue: callers, Logger: slog.New(slog.DiscardHandler)})
			defer func() { _ = p.Close(b.Context()) }()
			var calls atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			for range callers {
				wg.Go(func() {
					for calls.Add(1) <= int64(b.N) {
						if _, err := p.Run(b.Context(), &Call{Func: "do"}, ignore); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
