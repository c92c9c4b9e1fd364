#!/bin/bash
# Measures Nibble beside llama.cpp, onnxruntime and oneDNN, one after another, in interleaved rounds
# over the same shapes and threads, and writes DIR/compare.md and DIR/compare.json.
#
# The peers are looked for in $PEERS_ROOT: a Debian root (debootstrap sid) that has any of the
# packages llama.cpp-tools and python3-gguf; python3-onnxruntime and python3-onnx; libdnnl-dev 3.5 or
# later and g++. It is entered by chroot, so that needs root; drivers and models are put into its
# /var/tmp/nibble-compare and kept. A peer that is missing or fails is named and left out; without
# PEERS_ROOT Nibble is measured alone. If Nibble itself fails, so does this.
set -euo pipefail

usage() {
  cat <<'END'
usage: perf/compare.sh [options]
  -o DIR           where the results go                      (default: build/compare)
  --rounds N       rounds; the tables hold their medians     (default: 3)
  --only CASES     with commas between: matmul, tinyllama-1.1b, llama2-7b, llama3-8b
                                                             (default: matmul,tinyllama-1.1b,llama2-7b)
  --append         add rounds to those that DIR holds already
  --threads N      threads of everything                     (default: one a physical core)
  --build DIR      the release build                         (default: build/release)
  --via COMMAND    put before every command that is timed, such as "numactl -m 0"
  --quick          one round of small cases, in seconds: shows that it works, not how fast
END
}

cd "$(dirname "$0")/.."
out=build/compare build=build/release rounds=3 cases='' append=no threads='' quick=no via=()

# number KEY: its value in each line of flat JSON on standard input; nothing where it is no number.
number() { sed -nE "s/.*\"$1\": ?(-?[0-9][-+0-9.eE]*).*/\1/p"; }
say() { echo "compare: $*" >&2; }
die() {
  say "$@"
  exit 1
}
wrong_usage() {
  say "$@"
  usage >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --append) append=yes ;;
    --quick) quick=yes ;;
    -o | --rounds | --only | --threads | --build | --via)
      [ $# -ge 2 ] || wrong_usage "$1 needs a value."
      case $1 in
        -o) out=$2 ;;
        --rounds) rounds=$2 ;;
        --only) cases=${2//,/ } ;;
        --threads) threads=$2 ;;
        --build) build=$2 ;;
        --via) read -ra via <<<"$2" ;;
      esac
      shift
      ;;
    *) wrong_usage "there is no option '$1'." ;;
  esac
  shift
done
for number in "$rounds" "${threads:-1}"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || wrong_usage "expected a number from 1, found '$number'."
done

if [ $quick = yes ]; then
  [ -n "$cases" ] || cases="matmul demo"
  rounds=1 groups=128 size=512 rows=8,1 pool=16 seconds=0.05 prompt=32 tokens=8
else
  [ -n "$cases" ] || cases="matmul tinyllama-1.1b llama2-7b"
  groups="128 32" size=4096 rows=512,8,4,1 pool="" seconds=0.5 prompt=512 tokens=64
fi
for case in $cases; do
  [[ $case =~ ^(matmul|demo|tinyllama-1.1b|llama2-7b|llama3-8b)$ ]] || wrong_usage "there is no case '$case'."
done
[ -x "$build/nibble" ] || die "$build/nibble is missing: build Nibble first."
[ -x "$build/perf/nibble_matmul" ] || die "$build/perf/nibble_matmul is missing: build with NIBBLE_PERF=ON."

doctor=$("$build/nibble" doctor --json) || die "nibble doctor failed."
[ -n "$threads" ] || threads=$(number threads <<<"$doctor")
# Weights from memory are several times what the caches hold.
[ -n "$pool" ] || pool=$("$build/perf/nibble_matmul" --print-pool-mb) || die "nibble_matmul failed."

mkdir -p "$out"
records=$out/records.tsv about=$out/about.tsv log=$out/compare.log
[ $append = yes ] || : >"$records"
: >"$log"

# record CASE MEASURE UNIT WHO VALUE: one line of the records; nothing without a value.
record() { [ -z "$5" ] || printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$records"; }
# quotient A B: A / B; nothing unless both are above 0.
quotient() { awk -v a="$1" -v b="$2" 'BEGIN { if (a > 0 && b > 0) printf "%.5g", a / b }'; }

# What a shared machine's memory gives changes from minute to minute, and with it everything that is
# bound by it. So the read roof is measured right after everyone's single row, and speed is also
# recorded as a share of it, counting the bytes that Nibble reads: those shares can be compared.
declare -A bytes # by case: of one matmul's or one token's weights
# record_share CASE MEASURE WHO PER_SECOND READ_ROOF
record_share() {
  record "$1" "$2, of the read roof" share "$3" \
    "$(quotient "$(awk -v a="$4" -v b="${bytes[$1]}" 'BEGIN { print a * b * 1e-9 }')" "$5")"
}

# --- Nibble

# nibble_alone COMMAND...: its standard output; the end of everything when it fails.
nibble_alone() {
  "${via[@]}" "$@" 2>>"$log" || die "'$*' failed; see $log."
}

nibble_matmul() { # GROUP
  local name="matmul ${size}x$size g$1" lines
  lines=$(nibble_alone "$build/perf/nibble_matmul" --size "$size" --group "$1" --rows "$rows" \
    --threads "$threads" --pool-mb "$pool" --seconds "$seconds")
  bytes[$name]=$(number bytes <<<"${lines%%$'\n'*}")
  record_matmul "$name" nibble "$lines" "$(number roof_read_gbs <<<"${lines%%$'\n'*}")"
  record "$name" "m = ${rows%%,*}, of the int8 roof" share nibble \
    "$(number int8_share <<<"${lines%%$'\n'*}")"
  record_roofs "$name" "${lines%%$'\n'*}"
}

# record_matmul CASE WHO LINES READ_ROOF: the lines that all drivers print, the last rows first.
record_matmul() {
  local line m ms
  while read -r line; do
    m=$(number m <<<"$line") ms=$(number ms <<<"$line")
    record "$1" "m = $m" ms "$2" "$ms"
    [ "$m" != 1 ] || record_share "$1" "m = 1" "$2" "$(quotient 1000 "$ms")" "$4"
  done < <(tac <<<"$3")
}

record_roofs() { # CASE JSON
  record "$1" "read roof" GB/s nibble "$(number roof_read_gbs <<<"$2")"
  record "$1" "int8 roof" GOP/s nibble "$(number roof_int8_gops <<<"$2")"
}

nibble_model() { # CASE GROUP
  local name="$1 g$2" model=(--shape "$1") json m
  [ "$1" != demo ] || model=(tools/demo/tale)
  local command=("$build/nibble" bench "${model[@]}" --group "$2" --threads "$threads" --json
    --prompt "$prompt" --gen "$tokens")
  ! "$build/nibble" bench --help | grep -q -- --rows || command+=(--rows "1,4,8")
  json=$(nibble_alone "${command[@]}")
  record "$name" decode tok/s nibble "$(number decode_tok_s <<<"$json")"
  bytes[$name]=$(number weight_bytes_per_token <<<"$json")
  record_share "$name" decode nibble "$(number decode_tok_s <<<"$json")" \
    "$(number roof_read_gbs <<<"$json")"
  record "$name" "decode, of the read roof between tokens" share nibble \
    "$(number decode_share <<<"$json")"
  record "$name" "prefill of $prompt" tok/s nibble "$(number prefill_tok_s <<<"$json")"
  record "$name" "prefill, of the int8 roof" share nibble "$(number prefill_share <<<"$json")"
  for m in 4 8; do
    record "$name" "a pass of $m rows, in passes of one" x nibble \
      "$(tr '{' '\n' <<<"$json" | grep "\"m\":$m," | number ratio || true)"
  done
  record_roofs "$name" "$json"
}

# --- The peers

root=${PEERS_ROOT:-} room=/var/tmp/nibble-compare
# Enters the root in a mount namespace of its own, so that nothing stays mounted.
# shellcheck disable=SC2016
enter='for d in proc sys dev; do mkdir -p "$0/$d"; mount --rbind "/$d" "$0/$d"; done; exec chroot "$0" "$@"'
inside=(unshare --mount bash -c "$enter" "$root" env -C "$room" LC_ALL=C.UTF-8)
peer() { "${via[@]}" "${inside[@]}" "$@" 2>>"$log"; }
# read_roof CASE WHO: what it is just now; recorded as what it was beside that peer.
read_roof() {
  local roof
  roof=$(nibble_alone "$build/perf/nibble_matmul" --roofs --threads "$threads" | number roof_read_gbs)
  record "$1" "read roof" GB/s "$2" "$roof"
  echo "$roof"
}
# give_up_on WHO: a peer failed while it was measured.
give_up_on() {
  say "$1 failed (see $log): left out of this round."
  printf 'skipped\t%s (failed in round %s)\n' "$1" "$round" >>"$about"
}
# shellcheck disable=SC2016
peer_version() { chroot "$root" dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true; }

# have_PEER: 0, or says what is missing.
have_llama() { [ -x "$root/usr/bin/llama-bench" ] && peer python3 -c 'import gguf'; }
have_ort() { peer python3 -c 'import onnx, onnxruntime'; }
have_onednn() {
  peer g++ -O2 -std=c++17 onednn_matmul.cpp -o onednn_matmul -ldnnl && [ -x "$root$room/onednn_matmul" ]
}

# find_peer NAME PACKAGE: whether it is there; says so, and notes it for the tables.
find_peer() {
  local via=() version
  version=$(peer_version "$2")
  if [ -n "$version" ] && "have_$1"; then
    printf 'peer\t%s %s\n' "$2" "$version" >>"$about"
    return 0
  fi
  say "$2 is not in $root, or does not work (see $log): left out."
  printf 'skipped\t%s\n' "$2" >>"$about"
  return 1
}

find_peers() {
  llama=no ort=no onednn=no
  if [ -z "$root" ]; then
    say "PEERS_ROOT is not set: Nibble alone."
    printf 'skipped\t%s\n' "all peers: PEERS_ROOT is not set" >>"$about"
    return
  fi
  [ -d "$root/usr" ] || die "PEERS_ROOT=$root holds no system."
  mkdir -p "$root$room"
  cp perf/peers/* "$root$room/"
  ! find_peer llama llama.cpp-tools || llama=yes
  ! find_peer ort python3-onnxruntime || ort=yes
  ! find_peer onednn libdnnl-dev || onednn=yes
}

# peer_matmul GROUP WHO COMMAND...
peer_matmul() {
  local name="matmul ${size}x$size g$1" who=$2 lines
  shift 2
  lines=$(peer "$@") || { give_up_on "$who" && return; }
  record_matmul "$name" "$who" "$lines" "$(read_roof "$name" "$who")"
}

llama_model() { # CASE
  local gguf=$1.gguf who="llama.cpp Q4_0" lines name m one roof
  lines=$(peer llama-bench -m "$gguf" -t "$threads" -p "4,8,$prompt" -n "$tokens" -r 1 -o jsonl) ||
    { give_up_on llama.cpp && return; }
  # of PROMPT KEY: the field of the test with that many prompt tokens.
  of() { grep "\"n_prompt\": $1," <<<"$lines" | number "$2"; }
  one=$(quotient "$(of 0 avg_ns)" "$tokens")
  roof=
  for name in $groups; do
    name="$1 g$name"
    [ -n "$roof" ] && record "$name" "read roof" GB/s "$who" "$roof" || roof=$(read_roof "$name" "$who")
    record "$name" decode tok/s "$who" "$(of 0 avg_ts)"
    record_share "$name" decode "$who" "$(of 0 avg_ts)" "$roof"
    record "$name" "prefill of $prompt" tok/s "$who" "$(of "$prompt" avg_ts)"
    for m in 4 8; do
      record "$name" "a pass of $m rows, in passes of one" x "$who" \
        "$(quotient "$(of "$m" avg_ns)" "$one")"
    done
  done
}

make_models() {
  local case via=()
  [ $llama = yes ] || return 0
  for case in $cases; do
    if [[ $case != *llama* ]] || [ -s "$root$room/$case.gguf" ]; then continue; fi
    say "making $room/$case.gguf"
    peer python3 make_gguf.py "$case" "$case.part" || die "make_gguf.py failed; see $log."
    mv "$root$room/$case.part" "$root$room/$case.gguf"
  done
}

# --- Rounds and tables

run_case() { # CASE
  local group
  for group in $groups; do
    if [ "$1" != matmul ]; then
      nibble_model "$1" "$group"
      continue
    fi
    nibble_matmul "$group"
    [ $ort = no ] || peer_matmul "$group" "onnxruntime MatMulNBits" python3 ort_matmul_nbits.py \
      --size "$size" --group "$group" --rows "$rows" --threads "$threads" --pool-mb "$pool" --seconds "$seconds"
    [ $onednn = no ] || peer_matmul "$group" "oneDNN f32 x u4" env OMP_NUM_THREADS="$threads" \
      OMP_PROC_BIND=true ./onednn_matmul "$size" "$group" "$rows" "$pool" "$seconds"
  done
  [ $llama = no ] || [[ $1 != *llama* ]] || llama_model "$1"
}

write_tables() {
  local format
  for format in md json; do
    awk -v format=$format -f perf/compare_table.awk "$about" "$records" >"$out/compare.$format"
  done
}

{
  printf 'cpu\t%s\n' "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)"
  printf 'cpu_family_model\t%s\n' "$(sed -nE 's/^(cpu family|model)[[:space:]]*: *//p' /proc/cpuinfo | head -n 2 | paste -sd /)"
  printf 'date\t%s\n' "$(date -u +%F)"
  printf 'threads\t%s\n' "$threads"
  printf 'isa\t%s\n' "$(sed -nE 's/.*"isa": ?"([a-z0-9_]*)".*/\1/p' <<<"$doctor")"
  printf 'nibble\t%s\n' "$(git -c safe.directory="$PWD" describe --always --dirty 2>/dev/null || echo unknown)"
} >"$about"
find_peers
make_models
for ((round = 1; round <= rounds; ++round)); do
  for case in $cases; do
    say "round $round of $rounds: $case"
    run_case "$case"
  done
done
write_tables
say "done: $out/compare.md and $out/compare.json"
