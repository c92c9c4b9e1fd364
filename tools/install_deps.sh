#!/bin/bash
# Installs the Debian 12 packages that building and testing need. What is there already is left
# alone, so a second run costs nothing. Needs root or sudo only when something is missing.
set -euo pipefail

packages=(
  g++ clang libclang-rt-dev llvm cmake ninja-build git clang-format
  libxbyak-dev libasmjit-dev libzydis-dev libdnnl-dev
  libfmt-dev libgtest-dev libbenchmark-dev
  protobuf-compiler libprotobuf-dev libonnx-dev
  nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev libhwloc-dev
)

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi

echo "installing: ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: these packages are missing and neither root nor sudo is at hand: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
