"""What the figures depend on: the processor, the libraries, and how fast the machine multiplies matrices."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

Shape = tuple[int, int, int]
LIBRARIES = ("torch", "timm", "openvino", "openslide-bin", "simplejpeg", "tiffslide", "pyvips")
CPU_SHAPES: tuple[Shape, ...] = ((2048, 2048, 2048), (2056, 768, 3072), (2056, 3072, 768))
CUDA_SHAPES: tuple[Shape, ...] = ((8192, 8192, 8192), (32896, 768, 3072), (32896, 3072, 768))
"""Rows, inner, columns: a square, and the two matrices of a ViT-B's MLP on a batch of tiles."""

SECONDS = 0.6


def machine() -> dict[str, Any]:
    """Everything but the host's name; matrix rates in GFLOP/s, None where a type was not measured."""
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": memory_gib(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "libraries": libraries(),
        "matmul_gflops": {
            "cpu": rates("cpu"),
            "cuda": rates("cuda") if cuda else {"fp32": None, "bf16": None},
        },
    }


def libraries() -> dict[str, str | None]:
    """Version of each library, None when it is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name and what of it matters here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    flags = set(named.get("flags", "").split())
    notes = [word for word in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if word in flags]
    name = named.get("model name", platform.processor() or "unknown")
    if "cpu family" in named:
        name += f" (family {named['cpu family']}, model {named.get('model')})"
    return " ".join([name, *notes])


def memory_gib() -> float | None:
    """Main memory, None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def rates(device: str) -> dict[str, float | None]:
    """The best GFLOP/s of a matrix product, all threads, for each type: the ceiling of any network."""
    shapes = CUDA_SHAPES if device == "cuda" else CPU_SHAPES
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    return {name: round(max(_rate(device, kind, shape) for shape in shapes)) for name, kind in types.items()}


def _rate(device: str, kind: torch.dtype, shape: Shape) -> float:
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=device).to(kind)
    right = torch.randn(inner, columns, device=device).to(kind)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, _once(left, right))
    return 2 * rows * inner * columns / best / 1e9


def _once(left: torch.Tensor, right: torch.Tensor) -> float:
    start = time.perf_counter()
    left @ right
    if left.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start
