"""Text-to-image pipelines of the diffusers library as models to be aligned, and their adapters as its LoRA files."""

from diffpolicy.alignment.pipelines.load import load_pipeline
from diffpolicy.alignment.pipelines.save import save_adapter

__all__ = ["load_pipeline", "save_adapter"]
