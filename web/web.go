// Package web is the page that the pod serves to people: what Vite has made of
// the TypeScript in src, embedded. `make web` makes it anew; Go programs need no
// Node.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"

	"github.com/klauspost/compress/gzhttp"
)

//go:embed dist
var dist embed.FS

// policy is the Content-Security-Policy: the page loads nothing from other hosts
// and no code but its own. blob: is for results, which the page shows as images,
// sound and downloads.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src blob:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// A file is one of the page's, with the headers that go with it.
type file struct {
	body        string
	contentType string
	etag        string
	cache       string
}

// Handler serves the page: index.html at / and what belongs to it. Any other path
// and any method but GET and HEAD is 404, so that an RPC that is unknown is that
// and nothing else.
func Handler() http.Handler {
	files, err := load(dist)
	if err != nil {
		panic(err) // it is a mistake in the build: the files are embedded
	}
	return newHandler(files)
}

func newHandler(files map[string]*file) http.Handler {
	return gzhttp.GzipHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := files[strings.TrimPrefix(r.URL.Path, "/")]
		if f == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.NotFound(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", f.contentType)
		h.Set("Cache-Control", f.cache)
		h.Set("Etag", f.etag)
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		if r.Header.Get("If-None-Match") == f.etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		if r.Method == http.MethodGet {
			_, _ = strings.NewReader(f.body).WriteTo(w) // the browser has gone
		}
	}))
}

// contentTypes are those of the files that there are; the machine's own list of
// types is not to be relied on.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

// load reads the files; "" is the page itself.
func load(dist fs.FS) (map[string]*file, error) {
	files := map[string]*file{}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(dist, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		f := &file{
			body:        string(body),
			contentType: contentTypes[path.Ext(name)],
			etag:        `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
			cache:       "no-cache", // asked for each time, and then mostly not modified
		}
		if f.contentType == "" {
			return fmt.Errorf("%s: no content type is known for it", name)
		}
		name = strings.TrimPrefix(name, "dist/")
		if strings.HasPrefix(name, "assets/") { // the names have a hash of what is in them
			f.cache = "public, max-age=31536000, immutable"
		}
		if name == "index.html" {
			name = ""
		}
		files[name] = f
		return nil
	})
	return files, err
}
