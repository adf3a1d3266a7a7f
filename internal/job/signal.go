package job

import "sync"

// A signal wakes all who wait for the next change. The channel is made when
// someone waits, so that sending costs next to nothing when nobody does.
type signal struct {
	mu sync.Mutex
	c  chan struct{} // nil when nobody waits
}

func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
