"""What this machine lends to the process: how many threads, by affinity and a container's quota, and what it is called.

torch starts a thread for every core that it may run on. A container's quota (`docker run --cpus 2`) is not among what it asks:
64 threads that share two cores' time wait for each other. OMP_NUM_THREADS, where it is set, is the operator's word. Linux; elsewhere
the count of cores.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
UNITS = (
    "amx_bf16",
    "avx512_bf16",
    "avx512_vnni",
    "amx_int8",
    "avx512f",
    "avx2",
)  # what decides how fast a matrix is multiplied


def threads() -> int:
    """At least 1."""
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if named.isdigit() and int(named):
        return int(named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allowed = quota()
    return max(1, min(cores, int(allowed))) if allowed else cores


def quota(groups: Path = GROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Cores' worth of time that the process's control groups allow, the smallest of them; None where there is no limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    folders = [groups / path, *(groups / path).parents]
    limits = [_limit(each / "cpu.max") for each in folders if each.is_relative_to(groups)]
    limits += [_limit(groups / "cpu" / "cpu.cfs_quota_us", groups / "cpu" / "cpu.cfs_period_us")]  # version 1
    return min((each for each in limits if each), default=None)


def _limit(*files: Path) -> float | None:
    """ "QUOTA PERIOD" in microseconds, from one file or two; "max" or -1 is no limit."""
    try:
        quota, period = " ".join(each.read_text() for each in files).split()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def name() -> str:
    """The model's name, as in "AMD EPYC"."""
    return _told("model name") or platform.processor() or platform.machine()


def units() -> list[str]:
    """Those of UNITS that the processor says it has."""
    flags = _told("flags").split()
    return [each for each in UNITS if each in flags]


def _told(what: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == what), "")
