"""From a trained model to a faster one: where its time goes, what takes its layers' places, its file."""

from cnnkern.compression.compressor import Compressed, compress
from cnnkern.compression.exporting import to_stock
from cnnkern.compression.finetuning import Distill
from cnnkern.compression.losses import Divergence
from cnnkern.compression.profile_report import LayerProfile, Profile
from cnnkern.compression.profiling import profile
from cnnkern.compression.report import Report
from cnnkern.compression.storage import load, save

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
