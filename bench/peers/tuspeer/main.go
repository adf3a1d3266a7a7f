// Command tuspeer uploads to tusd, which stores the payload in a file and does
// nothing else, with a POST that makes the upload and a PATCH with all of it.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"

	"github.com/tus/tusd/v2/pkg/filestore"
	"github.com/tus/tusd/v2/pkg/handler"
	"golang.org/x/exp/slog"

	"github.com/aipod/aipod/bench/peers/peer"
)

const base = "/files/"

func main() {
	os.Exit(peer.Main(peer.Program{Serve: serve, Ops: map[string]peer.Op{"upload": upload}}))
}

func serve(l net.Listener, o peer.Options) error {
	composer := handler.NewStoreComposer()
	filestore.New(o.Dir).UseIn(composer)
	h, err := handler.NewHandler(handler.Config{BasePath: base, StoreComposer: composer, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(base, http.StripPrefix(base, h))
	return http.Serve(l, mux)
}

func upload(ctx context.Context, o peer.Options, _ map[string]float64) (int64, error) {
	f, err := os.Open(o.File)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // was only read from
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	made, err := send(ctx, http.MethodPost, "http://"+o.Addr+base, nil, http.Header{"Upload-Length": {strconv.FormatInt(info.Size(), 10)}})
	if err != nil {
		return 0, err
	}
	done, err := send(ctx, http.MethodPatch, made.Get("Location"), f, http.Header{
		"Upload-Offset": {"0"}, "Content-Type": {"application/offset+octet-stream"},
	})
	if err != nil {
		return 0, err
	}
	return peer.Confirmed(info.Size(), []byte(done.Get("Upload-Offset")))
}

// send makes a request of the tus protocol and returns the answer's headers.
func send(ctx context.Context, method, url string, body io.Reader, header http.Header) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	req.Header = header
	req.Header.Set("Tus-Resumable", "1.0.0")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode >= http.StatusBadRequest {
		return nil, fmt.Errorf("%s %s: %s", method, url, res.Status)
	}
	return res.Header, nil
}
