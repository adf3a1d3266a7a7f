//go:build race

package codec

// raced: the race detector makes a sync.Pool drop things at random.
const raced = true
