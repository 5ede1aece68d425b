#!/usr/bin/env bash
# Draws docs/pictures/*.dot as SVG with Graphviz, compiled to WebAssembly and published on npm, so that every machine draws the same.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v npm > /dev/null || { echo "Error: npm is not installed; get Node.js from https://nodejs.org." >&2; exit 2; }
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
npm install --silent --no-audit --no-fund --no-package-lock --prefix "$tools" @hpcc-js/wasm-graphviz-cli@1.11.2
for source in docs/pictures/*.dot; do
  "$tools/node_modules/.bin/wasm-graphviz-cli" -T svg "$source" > "${source%.dot}.svg"
  echo "${source%.dot}.svg"
done
