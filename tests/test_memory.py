"""Freed memory stays with the process where the allocator can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_large_blocks_are_reused_without_new_page_faults():
    program = (
        "import resource, numpy as np\n"
        "from diffpose_jax.memory import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def faults():\n"
        "    np.zeros(64 * 2**20, np.uint8).fill(1)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "faults(); before = faults(); print(faults() - before)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) < 1000  # 64 MiB are 16,384 pages
