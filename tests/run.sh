#!/bin/bash
# Installs what is needed, builds, and runs every test twice: as released, and under the address
# and undefined-behaviour sanitizers. Ends with one line: N passed, N failed, N skipped.
# Usage: tests/run.sh [release|asan]...   (default: both)
set -uo pipefail
cd "$(dirname "$0")/.."

presets=("$@")
[ $# -gt 0 ] || presets=(release asan)
jobs=$(nproc)
passed=0 failed=0 skipped=0

# attribute NAME FILE...: the sum of that number over the <testsuite>s in JUnit files.
attribute() {
  local name=$1
  shift
  awk -v name="$name" 'BEGIN { RS = "<" }
    /^testsuite[ \t\n]/ && match($0, "[ \t\n]" name "=\"[0-9]+\"") {
      number = substr($0, RSTART, RLENGTH)
      gsub(/[^0-9]/, "", number)
      sum += number
    }
    END { print sum + 0 }' "$@"
}

give_up() {
  echo "tests/run.sh: $1" >&2
  echo "$passed passed, $((failed + 1)) failed, $skipped skipped"
  exit 1
}

tools/install_deps.sh || give_up "the packages could not be installed"

echo "== format"
if git -c safe.directory="$PWD" ls-files -z '*.h' '*.cpp' | xargs -0 clang-format --dry-run -Werror; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
fi

for preset in "${presets[@]}"; do
  echo "== $preset"
  cmake --preset "$preset" || give_up "the $preset build could not be configured"
  cmake --build --preset "$preset" -j "$jobs" || give_up "the $preset build failed"
  report="$PWD/build/$preset/tests.xml"
  shards="$PWD/build/$preset/shards" # where tests run many in a process
  rm -rf "$report" "$shards"
  ctest --preset "$preset" -j "$jobs" --output-junit "$report"
  status=$?
  [ -s "$report" ] || give_up "the $preset tests could not be run"
  reports=("$report")
  [ ! -d "$shards" ] || reports=("$shards"/*.xml)
  tests=$(attribute tests "${reports[@]}") bad=$(attribute failures "${reports[@]}")
  idle=$(($(attribute skipped "${reports[@]}") + $(attribute disabled "${reports[@]}")))
  [ "${tests:-0}" -gt 0 ] || give_up "no $preset tests were found"
  [ "$status" -eq 0 ] || [ "$bad" -gt 0 ] || bad=1  # ctest failed for another reason than a test
  passed=$((passed + tests - bad - idle)) failed=$((failed + bad)) skipped=$((skipped + idle))
done

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
