#!/bin/sh
# Runs the Connect conformance suite against the pod's server and client code.
# No case may fail, and none is exempt. The suite's runner is taken from PATH or
# .tools; make it with
#   go install connectrpc.com/conformance/cmd/connectconformance@v1.0.7
set -u
cd "$(dirname "$0")" || exit 2
PATH="$(cd ../.. && pwd)/.tools:$PATH"
dir=$(mktemp -d) || exit 2
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM
go build -o "$dir/" ./server ./client || exit 2
status=0

# suite MODE ARGS... runs one mode and shows its summary, or all when it fails.
suite() {
	mode=$1
	shift
	echo "conformance: $mode"
	if connectconformance --mode "$mode" --conf "$mode.yaml" "$@" -- "$dir/$mode" >"$dir/log" 2>&1; then
		tail -n 2 "$dir/log"
	else
		cat "$dir/log"
		status=1
	fi
}

# Some server cases measure time: more in parallel would make them wait for a core.
suite server --max-servers 2 --parallel 4
suite client
exit "$status"
