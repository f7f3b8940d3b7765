#!/usr/bin/env bash
# Plants each bug of this directory (a mutant: a patch) in a copy of the
# project, and runs the tests that must find it. A mutant that no test finds, or
# that no longer applies or builds, is a failure. If names of mutants are given,
# only these are tried.
set -euo pipefail
cd "$(dirname "$0")/../.."
copy=$PWD/target/mutants/project
rm -rf "$copy"
mkdir -p "$copy"
git ls-files -z | tar --null -T - -cf - | tar -C "$copy" -xf -
export CARGO_TARGET_DIR=$PWD/target/mutants/target
export MODEL_SHRINK=0 MODEL_RUNS=${MODEL_RUNS:-120}
log=$PWD/target/mutants/log
mutants=("$@")
if [ ${#mutants[@]} -eq 0 ]; then
    mutants=(tests/mutants/*.patch)
    mutants=("${mutants[@]##*/}")
    mutants=("${mutants[@]%.patch}")
fi
cd "$copy"
lived=0
for mutant in "${mutants[@]}"; do
    patch=tests/mutants/$mutant.patch
    killers=$(sed -n 's/^killed by: //p' "$patch")
    if ! patch -p1 --quiet --force --fuzz=0 < "$patch" > "$log"; then
        echo "$mutant: does not apply, see $log"
        exit 1
    fi
    # Build first: a mutant that does not build would look like one that a test
    # has found.
    if [ "$killers" = interleavings ]; then
        build=(make interleavings INTERLEAVINGS=--no-run)
        run=(make interleavings)
    else
        build=(cargo test --quiet --no-run)
        # shellcheck disable=SC2206 # several names
        run=(cargo test --quiet --lib --test it --test costs -- $killers)
    fi
    if ! "${build[@]}" > "$log" 2>&1; then
        grep -m 1 '^error' "$log" || true
        echo "$mutant: does not build"
        lived=$((lived + 1))
    elif "${run[@]}" > "$log" 2>&1; then
        echo "$mutant: not found by its tests"
        lived=$((lived + 1))
    else
        echo "$mutant: killed by $killers"
    fi
    patch -p1 --quiet --reverse --force < "$patch"
done
exit "$lived"
