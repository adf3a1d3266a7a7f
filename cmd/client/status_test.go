package main

import (
	"testing"
	"time"

	"github.com/aipod/aipod/client"
)

// How much of the payload is there is what the pod says, and where it doesn't what
// was sent.
func TestStatusThere(t *testing.T) {
	under := []client.Event{
		client.Connecting{Stream: 1}, client.Accepted{JobID: "j", State: receiving},
		client.Sent{Offset: 30, Size: 100}, client.Heartbeat{State: receiving, Committed: 20},
	}
	for name, tc := range map[string]struct {
		legacy    bool
		more      []client.Event
		there     int64
		uploading bool
	}{
		"under way":        {false, nil, 20, true},
		"ai.AI":            {true, nil, 30, true},
		"single requests":  {false, []client.Event{client.HalfDuplex{}}, 30, true},
		"all sent":         {false, []client.Event{client.Sent{Offset: 100, Size: 100}, client.Uploaded{Size: 100}}, 20, true},
		"all sent, ai.AI":  {true, []client.Event{client.Sent{Offset: 100, Size: 100}, client.Uploaded{Size: 100}}, 100, false},
		"all there":        {false, []client.Event{client.Sent{Offset: 100, Size: 100}, client.Uploaded{Size: 100}, client.Heartbeat{State: receiving, Committed: 100}}, 100, false},
		"sent by another":  {false, []client.Event{client.Superseded{}}, 20, false},
		"cut":              {false, []client.Event{client.Reconnecting{Why: errCut}}, 20, false},
		"cut, and resumed": {false, []client.Event{client.Reconnecting{Why: errCut}, client.Connecting{Stream: 2}, client.Accepted{JobID: "j", State: receiving, Committed: 25}}, 25, true},
	} {
		s := &status{size: 100, fresh: true}
		for _, e := range append(under[:len(under):len(under)], tc.more...) {
			s.take(e, time.Now())
		}
		if there, uploading := s.there(tc.legacy), s.uploading(tc.legacy); there != tc.there || uploading != tc.uploading {
			t.Errorf("%s: %d are there, uploading %v, want %d and %v", name, there, uploading, tc.there, tc.uploading)
		}
	}
}
