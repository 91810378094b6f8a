"""The processor that times belong to."""

from __future__ import annotations

import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# {what a table calls them: the flags of Linux that all must be there}
INSTRUCTIONS = {
    "AVX2": ("avx2", "fma"),
    "AVX-512": ("avx512f", "avx512bw", "avx512dq", "avx512vl"),
    "AVX-512 BF16": ("avx512_bf16",),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AMX BF16": ("amx_tile", "amx_bf16"),
    "AMX INT8": ("amx_tile", "amx_int8"),
}


def processor() -> str:
    """Name, family, model and instruction sets of this machine's processor, for the title of a table.

    For example ``"AMD EPYC, family 25 model 1 (AVX2)"``.
    """
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:  # not Linux
        return platform.processor() or platform.machine() or "unknown processor"
    fields = dict(re.findall(r"^([^:\n]*?)[ \t]*:[ \t]*(.*)$", text, re.MULTILINE))
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    name = " ".join((fields.get("model name") or platform.machine()).split())
    if "cpu family" in fields and "model" in fields:
        name += f", family {fields['cpu family']} model {fields['model']}"
    found = [title for title, needed in INSTRUCTIONS.items() if flags.issuperset(needed)]
    return f"{name} ({', '.join(found)})" if found else name
