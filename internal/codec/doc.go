// Package codec turns what is on the wire into bytes and back: the compression
// and the message codecs registered with connect, the kwargs, the payload and
// the result of the seed's protocol.
//
// It does no I/O of its own: it writes to the writers and consumers that it is
// given. It knows nothing of jobs, streams or error codes; what a client sent
// wrong is a *PayloadError, and the caller chooses the code.
//
// Functions and connect's options are safe for concurrent use. A Decoder and a
// Piece belong to one goroutine each.
package codec
