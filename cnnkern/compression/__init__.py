"""From a trained model to a faster one: where its time goes, what takes its layers' places, its file."""

from cnnkern.compression.profile_report import LayerProfile, Profile
from cnnkern.compression.profiling import profile
from cnnkern.compression.storage import load, save

__all__ = ["LayerProfile", "Profile", "load", "profile", "save"]
