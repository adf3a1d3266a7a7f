package web

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, req)
	return w
}

var assets = regexp.MustCompile(`(?:src|href)="\./([^"]+)"`)

func TestPageAndWhatItNames(t *testing.T) {
	page := get(t, "GET", "/")
	if page.Code != http.StatusOK || page.Header().Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("the page: %d %v", page.Code, page.Header())
	}
	names := assets.FindAllStringSubmatch(page.Body.String(), -1)
	if len(names) < 4 {
		t.Errorf("the page names %v", names)
	}
	for _, name := range names {
		res := get(t, "GET", "/"+name[1])
		cache := res.Header().Get("Cache-Control")
		if res.Code != http.StatusOK || res.Body.Len() == 0 || strings.HasPrefix(name[1], "assets/") != strings.Contains(cache, "immutable") {
			t.Errorf("%s: %d, %d bytes, %q", name[1], res.Code, res.Body.Len(), cache)
		}
	}
}

// Nothing is inline, so that the policy needs no exceptions.
func TestPolicy(t *testing.T) {
	page := get(t, "GET", "/")
	csp := page.Header().Get("Content-Security-Policy")
	if csp == "" || strings.Contains(csp, "unsafe") || strings.Contains(csp, "http") {
		t.Errorf("the policy is %q", csp)
	}
	body := page.Body.String()
	if regexp.MustCompile(`<script>|<style|style=|https?://`).MatchString(body) {
		t.Errorf("the page has code or styles in it, or names another host:\n%s", body)
	}
}

func TestNotModified(t *testing.T) {
	etag := get(t, "GET", "/").Header().Get("Etag")
	if res := get(t, "GET", "/", "If-None-Match", etag); etag == "" || res.Code != http.StatusNotModified || res.Body.Len() > 0 {
		t.Errorf("with the ETag %s: %d, %d bytes", etag, res.Code, res.Body.Len())
	}
	if res := get(t, "GET", "/", "If-None-Match", `"old"`); res.Code != http.StatusOK {
		t.Errorf("with an old ETag: %d", res.Code)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	if res := get(t, "HEAD", "/"); res.Code != http.StatusOK || res.Body.Len() > 0 {
		t.Errorf("HEAD: %d, %d bytes", res.Code, res.Body.Len())
	}
	for _, c := range [][2]string{{"POST", "/"}, {"GET", "/index.html"}, {"GET", "/assets/"}, {"GET", "/../web.go"}, {"OPTIONS", "/"}} {
		if res := get(t, c[0], c[1]); res.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d, want 404", c[0], c[1], res.Code)
		}
	}
}

// maxBundle is how large the page may be for a browser, in bytes.
const maxBundle = 120_000

func TestSizeForABrowser(t *testing.T) {
	total := 0
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dist, name)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(data); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		total += b.Len()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes in gzip", total)
	if total > maxBundle {
		t.Errorf("the page has %d bytes in gzip, want at most %d", total, maxBundle)
	}
}

func TestGzip(t *testing.T) {
	code := regexp.MustCompile(`assets/[^"]+\.js`).FindString(get(t, "GET", "/").Body.String())
	res := get(t, "GET", "/"+code, "Accept-Encoding", "gzip")
	if res.Code != http.StatusOK || res.Header().Get("Content-Encoding") != "gzip" {
		t.Errorf("%s: %d %v", code, res.Code, res.Header())
	}
}
