#!/usr/bin/env bash
# Does in a copy of the project what docs/ARCHITECTURE.md says of adding a
# property. The test that it adds has to fail without the property, and to pass
# with it.
set -euo pipefail
cd "$(dirname "$0")/.."
doc=$PWD/docs/ARCHITECTURE.md
copy=$PWD/target/walkthrough/project
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
cd "$copy"
export CARGO_TARGET_DIR=$PWD/../target

# The diff of number N of the page.
diff_of() {
    awk -v n="$1" '
        /^```diff$/ { found++; inside = found == n; next }
        /^```$/ { inside = 0 }
        inside' "$doc"
}
# shellcheck disable=SC2016 # the page's own quotes
run=$(sed -n 's/.*Run it.*`\(cargo test [^`]*\)`, .*/\1/p' "$doc")
[ -n "$run" ]
patch=(patch -p1 --fuzz=0 --quiet)
diff_of 2 | "${patch[@]}"
# Only that it fails is wanted to be seen.
if $run > ../without.log 2>&1; then
    echo "the test of the page passes without what it tests"
    exit 1
fi
grep -q "test result: FAILED. 0 passed; 1 failed" ../without.log
echo "without the property its test fails, as it should"
diff_of 1 | "${patch[@]}"
cargo fmt --check
$run
echo "the page is true"
