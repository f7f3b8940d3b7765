#!/usr/bin/env bash
# Does in a copy of the project what docs/ARCHITECTURE.md says of adding things.
# The page has pairs of diffs, the thing and its test, and the command that runs
# the test: it has to fail without the thing, and to pass with it.
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

# Applies the diff of number N of the page.
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
    # Only that it fails is wanted to be seen.
    if $run > "$log" 2>&1; then
        echo "$run: passes without what it tests"
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
echo "the page is true"
