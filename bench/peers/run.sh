#!/bin/bash
# Measures aipod against its peers and writes docs/BENCHMARKS.md.
#
#   run.sh             all rows
#   run.sh ROW...      these; -help lists them, and the flags that may come before
#
# Installs what is missing on Debian 12 or newer; when everything is there, apt
# isn't even asked.
set -euo pipefail
cd "$(dirname "$0")"

packages=()
need() { # need PACKAGE COMMAND...
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}

need protobuf-compiler command -v protoc
need libprotobuf-dev test -e /usr/include/google/protobuf/duration.proto
need protobuf-compiler-grpc command -v grpc_python_plugin
# Debian's own Python: another one on PATH doesn't see Debian's modules.
need python3-grpcio /usr/bin/python3 -c 'import grpc'
need python3-protobuf /usr/bin/python3 -c 'import google.protobuf'
need python3-zstandard /usr/bin/python3 -c 'import zstandard'

if [ ${#packages[@]} -gt 0 ]; then
    echo "installing: ${packages[*]}"
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo=(sudo)
    fi
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
fi

exec go run . "$@"
