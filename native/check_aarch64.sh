#!/usr/bin/env bash
# Run the native library of aarch64 on an emulated processor: the slates of the committed bundle must
# be those of the ONNX graph there. It needs qemu-user-static, g++-aarch64-linux-gnu, debootstrap
# (Debian packages) and the environment of `make setup`, but no container.
#
#   native/check_aarch64.sh                 builds below build/aarch64, which a second run uses again
#
# Debian's Python for arm64 is unpacked, not installed, and the emulator reads it by -L. Packages of
# Python come as wheels for aarch64, with the pins of the service.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/aarch64
root=$work/root
site=$work/site
python=$PWD/.venv/bin/python
mkdir -p "$work"

say() { printf '%s\n' "aarch64: $*"; }

if [ ! -e "$root/.unpacked" ]; then
  say "unpacking Debian's Python"
  rm -rf "$root" "$work/debian"
  debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 \
    bookworm "$work/debian" >"$work/debootstrap.log" ||
    { tail -5 "$work/debootstrap.log"; exit 1; }
  for package in "$work"/debian/var/cache/apt/archives/*.deb; do
    dpkg-deb -x "$package" "$root"
  done
  rm -rf "$work/debian"
  # The emulator shows the host's /proc/cpuinfo unless the root has one, and onnxruntime reads it.
  mkdir -p "$root/proc"
  printf 'processor\t: 0\nFeatures\t: fp asimd crc32 atomics fphp asimdhp cpuid\n%s\n%s\n%s\n\n' \
    $'CPU implementer\t: 0x41\nCPU architecture: 8' $'CPU variant\t: 0x3' \
    $'CPU part\t: 0xd0c\nCPU revision\t: 1' >"$root/proc/cpuinfo"
  touch "$root/.unpacked"
fi

if [ ! -e "$site/.installed" ]; then
  say "installing wheels for aarch64"
  rm -rf "$site"
  "$python" -m pip install --quiet --target "$site" --only-binary=:all: --implementation cp \
    --python-version 3.11 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    --constraint constraints.txt numpy onnxruntime
  touch "$site/.installed"
fi

say "compiling"
make --silent -C native variants CXX=aarch64-linux-gnu-g++ OUT="$work/eglr_rerank_native"
cp native/eglr_rerank_native/__init__.py "$work/eglr_rerank_native/"

say "comparing slates"
qemu-aarch64-static -cpu neoverse-n1 -L "$root" -E "PYTHONPATH=$site:$work:$PWD" \
  -E ORT_DISABLE_TELEMETRY=1 "$root/usr/bin/python3.11" -c '
import platform
from pathlib import Path

from service.engine.session import Session

assert platform.machine() == "aarch64"
# A session on the native library replays the golden requests and compares random ones.
session = Session.load(Path("bundles/ranklens/1"), backend="native")
print("aarch64:", session.backend.detail)'
