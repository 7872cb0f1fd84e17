"""The script that builds a TensorRT engine from the ONNX file, on the board that will run it.

Engines do not travel between TensorRT versions or GPUs, so the folder carries the recipe instead. Up to TensorRT 10 a
Q/DQ file still needs the flag --int8; from 11 on a network is strongly typed and the precision flags are gone.
"""

from __future__ import annotations

import shlex
from typing import Literal

BUILD_SCRIPT = "build_engine.sh"
Precision = Literal["fp32", "fp16", "int8"]

_FLAGS = {"int8": "--int8 --fp16", "fp16": "--fp16", "fp32": ""}

_SCRIPT = r"""#!/bin/sh
# Builds a TensorRT engine from the ONNX file beside this script with the trtexec of this machine, then measures it.
# Usage: sh build_engine.sh [build|measure] [more options for the build, e.g. --useDLACore=0]
# Writes <stem>.engine, <stem>.engine.json (what built it), latency.json, layers.json and layer_info.json.
# With EDGEQ_ENGINE_CACHE=FOLDER an engine that was built from the same bytes by the same TensorRT is taken from there.
set -eu
onnx=@ONNX@
engine=@ENGINE@
cd "$(dirname "$0")"

step=all
case ${1:-} in build | measure) step=$1 && shift ;; esac

fail() { echo "build_engine.sh: $1" >&2; exit "$2"; }

trtexec=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
[ -x "$trtexec" ] || fail "trtexec not found; install TensorRT or set TRTEXEC to its path" 7

# trtexec calls version 8.6.1 "v8601" and version 10.3.0 "v100300".
help=$("$trtexec" --help 2>&1 || true)
number=$(printf '%s\n' "$help" | sed -n 's/.*TensorRT v\([0-9][0-9]*\).*/\1/p' | head -n 1)
[ -n "$number" ] || fail "$trtexec does not say its TensorRT version" 7
if [ "$number" -ge 10000 ]; then major=$((number / 10000)); else major=$((number / 1000)); fi

if [ "$major" -le 10 ]; then precision="@FLAGS@"; else precision="@STRONG@"; fi
[ "$precision" != "unavailable" ] || fail \
    "TensorRT $major takes its precision from the file; build with TensorRT 10 or export for jetson-int8" 3
case $help in *--skipInference*) build_only=--skipInference ;; *) build_only=--buildOnly ;; esac

measure() {
    "$trtexec" --loadEngine="$engine" --exportTimes=latency.json
    "$trtexec" --loadEngine="$engine" --exportProfile=layers.json --exportLayerInfo=layer_info.json \
        --profilingVerbosity=detailed --separateProfileRun
}
if [ "$step" = measure ]; then measure && exit; fi

board=$(tr -cd 'A-Za-z0-9 ._-' 2>/dev/null < /proc/device-tree/model || uname -m)
jetpack=$(dpkg-query -W -f='${Version}' nvidia-jetpack 2>/dev/null || true)
case $(tr '\0' ' ' 2>/dev/null < /proc/device-tree/compatible || true) in
    *tegra234*) sm=8.7 ;; *tegra194*) sm=7.2 ;; *tegra186*) sm=6.2 ;; *tegra210*) sm=5.3 ;; *) sm= ;;
esac
key=$({ sha256sum < "./$onnx"; echo "$number $precision $board $*"; } | sha256sum | cut -c 1-64)
cached=${EDGEQ_ENGINE_CACHE:+$EDGEQ_ENGINE_CACHE/$key}

trap 'rm -f "./$engine.partial"' EXIT
if [ -n "$cached" ] && [ -f "$cached.engine" ]; then
    cp "$cached.engine" "./$engine.partial"
    echo "took $engine from $EDGEQ_ENGINE_CACHE"
else
    # shellcheck disable=SC2086  # the precision flags are separate words
    "$trtexec" --onnx="$onnx" --saveEngine="$engine.partial" --profilingVerbosity=detailed $precision $build_only "$@"
    if [ -n "$cached" ]; then
        mkdir -p "$EDGEQ_ENGINE_CACHE"
        cp "./$engine.partial" "$cached.partial.$$" && mv "$cached.partial.$$" "$cached.engine"
    fi
fi
mv "./$engine.partial" "./$engine"

cat > "./$engine.json" <<END
{
  "engine_sha256": "$(sha256sum "./$engine" | cut -d ' ' -f 1)",
  "onnx_sha256": "$(sha256sum "./$onnx" | cut -d ' ' -f 1)",
  "tensorrt": "$number",
  "flags": "$precision",
  "jetpack": "$jetpack",
  "sm": "$sm",
  "board": "$board",
  "built": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
}
END

if [ "$step" = all ]; then measure; fi
echo "built $engine with TensorRT $number"
"""


def build_script(onnx_name: str, stem: str, precision: Precision) -> str:
    """A POSIX shell script that turns `onnx_name`, beside it, into `<stem>.engine`.

    It ends with 7 where there is no usable trtexec and with 3 where its TensorRT cannot give this precision.
    """
    names = {
        "ONNX": shlex.quote(onnx_name),
        "ENGINE": shlex.quote(f"{stem}.engine"),
        "FLAGS": _FLAGS[precision],
        "STRONG": "unavailable" if precision == "fp16" else "",
    }
    script = _SCRIPT
    for key, text in names.items():
        script = script.replace(f"@{key}@", text)
    return script
