#!/bin/bash
# Puts a small aarch64 Debian (Java 17, Python 3.11 and the wheels that a bare install needs) and qemu-user into a folder.
# Nothing is installed on this machine: packages are unpacked, 600 MB of disk. Needs apt (Debian 12) and its network, and .venv.
#
#     tests/arm64/prepare.sh [FOLDER]          FOLDER defaults to runs/arm64
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=$(realpath -m "${1:-runs/arm64}")
ROOT=$OUT/sysroot
mkdir -p "$OUT"/state/lists/partial "$OUT"/cache/archives/partial "$ROOT"
: > "$OUT/status"  # as if nothing were installed, so that every dependency is fetched

APT=(-o "Dir::State=$OUT/state" -o "Dir::State::status=$OUT/status" -o "Dir::Cache=$OUT/cache" -o Debug::NoLocking=1
     -o APT::Sandbox::User=root -o APT::Install-Recommends=0 -qq)
ARM=("${APT[@]}" -o APT::Architecture=arm64 -o APT::Architectures::=arm64)
if [ ! -x "$OUT/qemu/usr/bin/qemu-aarch64-static" ]; then
    (cd "$OUT" && apt-get -qq download qemu-user-static && dpkg-deb -x qemu-user-static_*.deb qemu)
fi
if [ ! -e "$ROOT/.done" ]; then
    apt-get "${ARM[@]}" update
    apt-get "${ARM[@]}" install -y --download-only openjdk-17-jre-headless python3 zlib1g
    for package in "$OUT"/cache/archives/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
    # ONNX Runtime asks which processor it is on, and falls over where the answer is that of an x86.
    mkdir -p "$ROOT/proc"
    printf 'processor\t: 0\nBogoMIPS\t: 100.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n' > "$ROOT/proc/cpuinfo"
    touch "$ROOT/.done"
fi
.venv/bin/uv pip install --quiet --target "$OUT/site" --python-version 3.11 --python-platform aarch64-manylinux_2_28 \
    --only-binary :all: -c constraints.txt -r <(sed -n '/^dependencies = \[/,/^\]/p' pyproject.toml | sed -n 's/^ *"\(.*\)".*/\1/p')
echo "$OUT"
