"""From a trained model to a faster one: where its time goes, what takes its layers' places, its file."""

import importlib
from typing import Any

# Where each name is. They are imported when they are asked for: costs and clocks, which the benchmarks use,
# need nothing but torch.
_HOMES = {
    "Compressed": "compressor",
    "Distill": "finetuning",
    "Divergence": "losses",
    "LayerProfile": "profile_report",
    "Profile": "profile_report",
    "Report": "report",
    "compress": "compressor",
    "load": "storage",
    "profile": "profiling",
    "save": "storage",
    "to_stock": "exporting",
}

__all__ = [
    "Compressed",
    "Distill",
    "Divergence",
    "LayerProfile",
    "Profile",
    "Report",
    "compress",
    "load",
    "profile",
    "save",
    "to_stock",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
