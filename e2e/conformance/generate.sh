#!/bin/sh
# Makes gen/ from the suite's own protobuf files, which are published only as
# part of its Go module. Needs buf and the two plugins on PATH or in .tools. Arguments
# go to buf generate.
set -eu
cd "$(dirname "$0")"
PATH="$(cd ../.. && pwd)/.tools:$PATH"
proto=$(go mod download -json connectrpc.com/conformance@v1.0.7 | sed -n 's/^\t*"Dir": "\(.*\)",*$/\1/p')/proto
exec buf generate "$proto" --exclude-path "$proto/connectrpc/conformance/v1/suite.proto" "$@"
