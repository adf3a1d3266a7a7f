#!/usr/bin/env bash
# Checks that proto/ breaks no client: against main, and against the last change
# of the contracts before what main has, so that a committed break is found, too.
set -euo pipefail
cd "$(dirname "$0")/.."
git rev-parse -q --verify HEAD >/dev/null || { echo "no commits yet, nothing to break"; exit 0; }
main=$(git rev-parse -q --verify origin/main || git rev-parse -q --verify main || git rev-parse HEAD)
for commit in "$main" $(git log -n 2 --format=%H HEAD -- proto/'*.proto'); do
  if [ -z "$(git ls-tree "$commit" -- proto/)" ]; then continue; fi
  buf breaking --against ".git#ref=$commit"
done
