#!/bin/bash
# Installs what is needed, builds, quantizes and compiles the bundled model and tells a story.
# Usage: tools/quickstart.sh [BEGINNING OF THE STORY]
set -euo pipefail
cd "$(dirname "$0")/.."

tools/install_deps.sh
cmake --preset release
cmake --build --preset release --target nibble

nibble=build/release/nibble
model=build/release/tale.nib
"$nibble" compile tools/demo/tale -o "$model"
echo
"$nibble" run "$model" -p "${1:-Once upon a time}" --echo -n 300
