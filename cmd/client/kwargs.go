package main

import (
	"encoding/json"
	"net/http"
	"strings"
)

// reservedPrefix starts the kwargs that belong to the protocol.
const reservedPrefix = "_aipod"

// parseKwargs makes a JSON object of --kwargs and of each -k, which adds to it or
// replaces. With --legacy the version is one of them, too.
func parseKwargs(object string, pairs []string, version string, legacy bool) (json.RawMessage, error) {
	kwargs := map[string]json.RawMessage{}
	if object != "" {
		if err := json.Unmarshal([]byte(object), &kwargs); err != nil || kwargs == nil {
			return nil, usagef("--kwargs is not a JSON object: write it like '{\"key\": 1}'")
		}
	}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("-k %q is not key=value", pair)
		}
		kwargs[key] = kwarg(value)
	}
	if version != "" {
		if _, ok := kwargs["version"]; ok {
			return nil, usagef("the version is in --version and in the kwargs: choose one")
		}
		if legacy {
			kwargs["version"] = kwarg(quote(version))
		}
	}
	for key := range kwargs {
		if strings.HasPrefix(key, reservedPrefix) {
			return nil, usagef("the kwarg %q is reserved: choose a name that does not start with %s", key, reservedPrefix)
		}
	}
	return json.Marshal(kwargs)
}

// kwarg is JSON if value is, else the string value.
func kwarg(value string) json.RawMessage {
	if json.Valid([]byte(value)) {
		return json.RawMessage(value)
	}
	return json.RawMessage(quote(value))
}

func quote(s string) string {
	text, _ := json.Marshal(s) // strings never fail
	return string(text)
}

// parseHeader reads 'name: value' lines.
func parseHeader(lines []string) (http.Header, error) {
	header := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		if !ok || !isToken(name) || strings.ContainsFunc(value, isControl) {
			return nil, usagef("-H %q is not 'name: value'", line)
		}
		switch {
		case name == "x-func-name", name == "x-job-id", name == "x-heartbeat":
			return nil, usagef("-H %s: use FUNC, --job-id or --heartbeat", name)
		case strings.HasPrefix(name, "grpc-"), strings.HasPrefix(name, "connect-"), name == "content-type", name == "te":
			return nil, usagef("-H %s: belongs to the RPC protocol", name)
		}
		header.Add(name, value)
	}
	return header, nil
}

// metadata is what a function gets to know of a header. The pod writes it down,
// so what proves who the caller is stays out of it.
func metadata(header http.Header) map[string]string {
	md := map[string]string{}
	for name, values := range header {
		if !isSecret(name) {
			md[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	return md
}

// isSecret says of a header that it proves who the caller is.
func isSecret(name string) bool {
	switch strings.ToLower(strings.TrimSpace(name)) {
	case "authorization", "proxy-authorization", "cookie":
		return true
	}
	return false
}

func isToken(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }
