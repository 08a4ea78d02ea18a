#!/bin/bash
# Golden vectors on aarch64 under qemu-user: Python on its engines, Kotlin on both of its own. About a hundred times slower than
# the machine itself; this is Debian, not Android. Run tests/arm64/prepare.sh first, and `mvn test-compile` in android_demo.
#
#     tests/arm64/run.sh [FOLDER [BUNDLES]]    BUNDLES is made by tests/android_bundles.py when it is not there
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=$(realpath -m "${1:-runs/arm64}")
BUNDLES=$(realpath -m "${2:-$OUT/bundles}")
QEMU=("$OUT/qemu/usr/bin/qemu-aarch64-static" -cpu cortex-a72 -L "$OUT/sysroot")
test -x "${QEMU[0]}" || { echo "There is no $OUT: run tests/arm64/prepare.sh $OUT" >&2; exit 2; }
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
test -e "$BUNDLES/golden" || PYTHONPATH=tests .venv/bin/python tests/android_bundles.py "$BUNDLES"

status=0
PYTHONHOME="$OUT/sysroot/usr" PYTHONPATH="$OUT/site:sdk" PYTHONDONTWRITEBYTECODE=1 \
    "${QEMU[@]}" "$OUT/sysroot/usr/bin/python3.11" tests/arm64/replay.py "$BUNDLES/golden" || status=1
(cd android_demo/engine && mvn -q -B dependency:build-classpath "-Dmdep.outputFile=$OUT/classpath" > /dev/null)
"${QEMU[@]}" "$OUT/sysroot/usr/lib/jvm/java-17-openjdk-arm64/bin/java" -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
    -cp "android_demo/engine/target/classes:android_demo/engine/target/test-classes:$(cat "$OUT/classpath")" \
    pocketrec.ReplayKt "$BUNDLES/golden" || status=1
exit $status
