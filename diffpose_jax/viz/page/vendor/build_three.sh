#!/bin/sh
# Makes three.min.js: the parts of three.js named in three_parts.js, minified, as one global `THREE`.
#
#   sh build_three.sh            needs node and npm and the network; nothing else of the package does
#
# Only the built file is committed, with three.js's licence in THREE_LICENSE.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cp "$here/three_parts.js" "$folder"
cd "$folder"
npm install --silent --no-save --no-audit --no-fund three@0.187.0 esbuild@0.28.2
npx esbuild three_parts.js --bundle --minify --format=iife --global-name=THREE --target=es2020 --charset=ascii \
    --legal-comments=none --log-level=warning --outfile="$here/three.min.js"
cp node_modules/three/LICENSE "$here/THREE_LICENSE"
