"""Messages that are smaller than the models: compressors, and what remembers what they left out."""

from relaysim.compress.compressors import Compressor, low_rank, quantize, random_k, sign, top_k
from relaysim.compress.feedback import error_feedback

__all__ = ["Compressor", "error_feedback", "low_rank", "quantize", "random_k", "sign", "top_k"]
