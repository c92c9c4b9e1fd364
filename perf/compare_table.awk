# The tables of compare.sh. Reads two tab-separated files: what was measured on (key, value), then
# the records (case, measure, unit, who, value), one a round; writes Markdown or, with
# -v format=json, JSON. A ratio says how many times as fast as the peer Nibble is: above 1 Nibble wins.
BEGIN { FS = "\t" }

FNR == NR {
  if ($1 == "peer" || $1 == "skipped") {
    list[$1, ++listed[$1]] = $2
  } else {
    about[$1] = $2
  }
  next
}

{
  row = $1 FS $2 FS $3
  if (!(row in row_known)) {
    row_known[row] = 1
    rows[++row_count] = row
  }
  if ($4 != "nibble" && !((row, $4) in peer_known)) {
    peer_known[row, $4] = 1
    peers[row, ++peer_count[row]] = $4
  }
  values[row, $4, ++rounds[row, $4]] = $5 + 0
}

# Sorts what `who` measured in `row` into sorted[1..n], and returns n.
function sort_values(row, who,    i, j, n, v) {
  n = rounds[row, who] + 0
  for (i = 1; i <= n; ++i) {
    v = values[row, who, i]
    for (j = i; j > 1 && sorted[j - 1] > v; --j) sorted[j] = sorted[j - 1]
    sorted[j] = v
  }
  return n
}

function median(row, who,    n, half) {
  n = sort_values(row, who)
  if (n == 0) return 0
  half = int(n / 2)
  return n % 2 ? sorted[half + 1] : (sorted[half] + sorted[half + 1]) / 2
}

# Nobody's speed, so without a ratio.
function is_roof(measure) { return measure ~ / roof$/ && measure !~ /,/ }

function less_is_better(unit) { return unit == "ms" || unit == "x" }

function ratio(row, who,    a, b, parts) {
  split(row, parts, FS)
  a = median(row, "nibble")
  b = median(row, who)
  if (a == 0 || b == 0 || is_roof(parts[2])) return 0
  return less_is_better(parts[3]) ? b / a : a / b
}

function short(v) { return sprintf(v >= 1000 ? "%.0f" : "%.3g", v) }

function cell(row, who,    n, middle) {
  middle = median(row, who)
  n = sort_values(row, who)
  if (n == 0) return "-"
  if (n == 1) return short(middle)
  return short(middle) " (" short(sorted[1]) " to " short(sorted[n]) ")"
}

function quoted(text) {
  gsub(/\\/, "&&", text)
  gsub(/"/, "\\\"", text)
  gsub(/[\001-\037]/, " ", text)
  return "\"" text "\""
}

function figures(row, who,    n, middle) {
  middle = median(row, who)
  n = sort_values(row, who)
  return sprintf("\"median\": %.6g, \"min\": %.6g, \"max\": %.6g, \"rounds\": %d", middle, sorted[1], sorted[n], n)
}

function names(key,    i, text) {
  for (i = 1; i <= listed[key]; ++i) text = text (i > 1 ? ", " : "") list[key, i]
  return text
}

function names_json(key,    i, text) {
  for (i = 1; i <= listed[key]; ++i) text = text (i > 1 ? ", " : "") quoted(list[key, i])
  return "[" text "]"
}

function print_markdown(    i, p, parts, row) {
  printf "%s (family/model %s), %s threads, %s, Nibble %s (%s).\n", about["cpu"], about["cpu_family_model"],
    about["threads"], about["date"], about["nibble"], about["isa"]
  if (listed["peer"]) printf "Peers: %s.\n", names("peer")
  if (listed["skipped"]) printf "Left out: %s.\n", names("skipped")
  print "Medians over the rounds (least to most). The ratio says how many times as fast as the peer Nibble is.\n"
  print "| case | measure | Nibble | peer | its figure | ratio |"
  print "|---|---|---|---|---|---|"
  for (i = 1; i <= row_count; ++i) {
    row = rows[i]
    split(row, parts, FS)
    parts[2] = parts[2] (parts[3] == "share" || parts[3] == "x" ? "" : ", " parts[3])
    if (!peer_count[row]) printf "| %s | %s | %s | | | |\n", parts[1], parts[2], cell(row, "nibble")
    for (p = 1; p <= peer_count[row]; ++p) {
      printf "| %s | %s | %s | %s | %s | %s |\n", parts[1], parts[2], cell(row, "nibble"), peers[row, p],
        cell(row, peers[row, p]), ratio(row, peers[row, p]) ? sprintf("%.2f", ratio(row, peers[row, p])) : "-"
    }
  }
}

function result_json(row,    p, who, text, parts) {
  split(row, parts, FS)
  text = sprintf("    {\"case\": %s, \"measure\": %s, \"unit\": %s, \"better\": %s, ", quoted(parts[1]),
    quoted(parts[2]), quoted(parts[3]), less_is_better(parts[3]) ? "\"less\"" : "\"more\"")
  text = text "\"nibble\": " (rounds[row, "nibble"] ? "{" figures(row, "nibble") "}" : "null") ", \"peers\": ["
  for (p = 1; p <= peer_count[row]; ++p) {
    who = peers[row, p]
    text = text (p > 1 ? ", " : "") "{\"name\": " quoted(who) ", " figures(row, who) \
      sprintf(", \"ratio\": %s}", ratio(row, who) ? sprintf("%.4g", ratio(row, who)) : "null")
  }
  return text "]}"
}

function print_json(    i) {
  printf "{\n  \"cpu\": %s,\n  \"cpu_family_model\": %s,\n", quoted(about["cpu"]), quoted(about["cpu_family_model"])
  printf "  \"date\": %s,\n  \"threads\": %d,\n", quoted(about["date"]), about["threads"]
  printf "  \"isa\": %s,\n  \"nibble\": %s,\n", quoted(about["isa"]), quoted(about["nibble"])
  printf "  \"peers\": %s,\n  \"skipped\": %s,\n  \"results\": [\n", names_json("peer"), names_json("skipped")
  for (i = 1; i <= row_count; ++i) printf "%s%s\n", result_json(rows[i]), i < row_count ? "," : ""
  print "  ]\n}"
}

END {
  if (format == "json") {
    print_json()
  } else {
    print_markdown()
  }
}
