package service

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
)

// corsMaxAge is for how many seconds a browser may remember what it was allowed.
const corsMaxAge = 7200

// headers that pages may send and read besides those of the RPC protocols.
var (
	requestHeaders = []string{
		"Content-Encoding", "Connect-Content-Encoding", "Authorization",
		headerJob, headerFunc, headerHeartbeat, headerUpstream,
	}
	responseHeaders = []string{headerJob, headerFunc}
)

// headerUpstream chooses a pod; only nginx reads it.
const headerUpstream = "x-upstream"

// checkOrigins checks the origins whose pages may call the pod.
func checkOrigins(origins []string) error {
	for _, origin := range origins {
		if origin == "*" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return fmt.Errorf("the CORS origin %q: give scheme and host as a browser sends them, such as https://app.example or http://localhost:5173, or *", origin)
		}
	}
	return nil
}

// withCORS lets the pages of the origins call the pod, with their credentials
// unless it is any page. Other pages are refused by their browsers.
func withCORS(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins:   origins,
		AllowedMethods:   connectcors.AllowedMethods(),
		AllowedHeaders:   append(connectcors.AllowedHeaders(), requestHeaders...),
		ExposedHeaders:   append(connectcors.ExposedHeaders(), responseHeaders...),
		AllowCredentials: !slices.Contains(origins, "*"),
		MaxAge:           corsMaxAge,
	}).Handler(next)
}
