#!/usr/bin/env bash
# Follows, in a copy of the project, the instructions of docs/ARCHITECTURE.md
# for adding things. The page has pairs of diffs, the addition and its test, and
# the command that runs the test: the test must fail without the addition, and
# pass with it.
set -euo pipefail
cd "$(dirname "$0")/.."
doc=$PWD/docs/ARCHITECTURE.md
copy=$PWD/target/walkthrough/project
log=$PWD/target/walkthrough/without.log
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
cd "$copy"
export CARGO_TARGET_DIR=$PWD/../target

# Applies diff number N of the page.
apply() {
    awk -v n="$1" '
        /^```diff$/ { found++; inside = found == n; next }
        /^```$/ { inside = 0 }
        inside' "$doc" | patch -p1 --fuzz=0 --quiet
}
# shellcheck disable=SC2016 # the page's own quotes
mapfile -t runs < <(sed -n 's/.*Run it.*`\(cargo test [^`]*\)`, .*/\1/p' "$doc")
[ "${#runs[@]}" -gt 0 ]
[ "$(grep -c '^```diff$' "$doc")" -eq $((2 * ${#runs[@]})) ]
for i in "${!runs[@]}"; do
    apply $((2 * i + 2))
done
for run in "${runs[@]}"; do
    # The output goes to a log: it matters only that the test fails.
    if $run > "$log" 2>&1; then
        echo "$run: passes although what it tests is missing"
        exit 1
    fi
    grep -q "test result: FAILED. 0 passed; 1 failed" "$log"
    echo "$run: fails without what it tests, as it should"
done
for i in "${!runs[@]}"; do
    apply $((2 * i + 1))
done
cargo fmt --check
for run in "${runs[@]}"; do
    $run
done
echo "every addition of docs/ARCHITECTURE.md works as it says"
