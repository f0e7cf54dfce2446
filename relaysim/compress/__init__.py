"""Messages that are smaller than the models: compressors, and what remembers what they left out."""

from relaysim.compress.compressors import Compressor, in_cosines, low_rank, quantize, random_k, sign, top_k
from relaysim.compress.feedback import error_feedback
from relaysim.compress.relay import relay_sum

__all__ = [
    "Compressor",
    "error_feedback",
    "in_cosines",
    "low_rank",
    "quantize",
    "random_k",
    "relay_sum",
    "sign",
    "top_k",
]
