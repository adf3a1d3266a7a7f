#!/bin/bash
# Installs what the end-to-end tests need on Debian 12 or newer. What is there is
# left alone; when everything is there, apt isn't even asked.
set -euo pipefail
cd "$(dirname "$0")"

packages=()
need() { # need PACKAGE COMMAND...
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || packages+=("$package")
}
has() { PATH=$PATH:/usr/sbin command -v "$1"; }

need nginx has nginx
need curl has curl
need strace has strace
need imagemagick test -x /usr/bin/convert
need protobuf-compiler has protoc
need libprotobuf-dev test -e /usr/include/google/protobuf/duration.proto
need protobuf-compiler-grpc has grpc_python_plugin
need nodejs has node
need npm has npm
# Debian's own Python: another one on PATH doesn't see Debian's modules.
need python3-grpcio /usr/bin/python3 -c 'import grpc'
need python3-protobuf /usr/bin/python3 -c 'import google.protobuf'
need python3-sklearn /usr/bin/python3 -c 'import sklearn'
need python3-zstandard /usr/bin/python3 -c 'import zstandard'
need chromium test -x /usr/bin/chromium
need fonts-wqy-microhei test -e /usr/share/fonts/truetype/wqy/wqy-microhei.ttc # a font for Chinese
need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt

if [ ${#packages[@]} -gt 0 ]; then
    echo "installing: ${packages[*]}"
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo=(sudo)
    fi
    # The tests run nginx themselves. Debian would start it as a service, now and
    # at each boot; 101 means "not allowed".
    new_nginx=false
    case " ${packages[*]} " in *" nginx "*) new_nginx=true ;; esac
    policy=/usr/sbin/policy-rc.d
    if $new_nginx && [ ! -e $policy ]; then
        trap '"${sudo[@]}" rm -f $policy' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee $policy >/dev/null
        "${sudo[@]}" chmod 755 $policy
    fi
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}"
    if $new_nginx && command -v systemctl >/dev/null; then
        "${sudo[@]}" systemctl disable --now nginx >/dev/null 2>&1 || true
    fi
fi

# npm ci installs exactly what package-lock.json says, from the registry that
# npm is set up for. No package's own scripts are run: none is needed.
if [ ! node/node_modules/.package-lock.json -nt node/package-lock.json ]; then
    (cd node && npm ci --ignore-scripts --no-audit --no-fund)
fi
