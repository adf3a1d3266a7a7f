package worker

import (
	"encoding/json"
	"time"
)

// The worker protocol, as docs/workers.md has it: JSON-RPC 2.0 objects, one a line.

// protocolVersion is that of docs/workers.md.
const protocolVersion = 1

// Error codes of the protocol.
const (
	codeNoFunction   = -32601
	codeInvalid      = -32602
	codeNoVersion    = -32001
	codeNoResources  = -32002
	codeCanceled     = -32800
	workerDescriptor = 3 // where a worker finds its socket
)

type initializeParams struct {
	Protocol int             `json:"protocol"`
	Version  string          `json:"version"`
	Slots    int             `json:"slots"`
	WorkDir  string          `json:"work_dir"`
	DataDir  string          `json:"data_dir"`
	Config   json.RawMessage `json:"config"`
}

type initializeResult struct {
	Model     string `json:"model"`
	Functions []struct {
		Name         string          `json:"name"`
		Doc          string          `json:"doc"`
		MakesVersion bool            `json:"makes_version"`
		Kwargs       json.RawMessage `json:"kwargs"`
		Payload      string          `json:"payload"`
	} `json:"functions"`
	Versions []string `json:"versions"`
}

type callParams struct {
	JobID      string            `json:"job_id"`
	Func       string            `json:"func"`
	Version    string            `json:"version"`
	Kwargs     json.RawMessage   `json:"kwargs"`
	Input      *callInput        `json:"input"`
	OutputPath string            `json:"output_path"`
	WorkDir    string            `json:"work_dir"`
	Deadline   *time.Time        `json:"deadline,omitempty"`
	Metadata   map[string]string `json:"metadata"`
	Attempt    int               `json:"attempt"`
}

type callInput struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

type callResult struct {
	Value      json.RawMessage `json:"value"`
	OutputSize *int64          `json:"output_size"`
	OutputJSON bool            `json:"output_json"`
}

type cancelParams struct {
	JobID string `json:"job_id"`
}

// A workerNote has the fields of all notifications of a worker.
type workerNote struct {
	JobID    string   `json:"job_id"`
	Done     int64    `json:"done"`
	Total    int64    `json:"total"`
	Unit     string   `json:"unit"`
	Note     string   `json:"note"`
	Level    string   `json:"level"`
	Line     string   `json:"line"`
	Size     int64    `json:"size"`
	Versions []string `json:"versions"`
}
