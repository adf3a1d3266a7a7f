//go:build !linux

package measure

import (
	"errors"
	"net/netip"
)

func processUsage(int) (*Usage, error) { return nil, errors.ErrUnsupported }

// Listener is known on Linux only.
func Listener(netip.AddrPort) int { return 0 }
