package peer

import "math/rand/v2"

// randomPiece makes n bytes that do not compress.
func randomPiece(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}
