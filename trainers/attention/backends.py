"""Backends of packed attention, by name.

============  =======================================================================================
flash_attn    the flash-attn package's variable-length kernel; GPUs
varlen        the same kernel as torch brings it; GPUs, no package needed
sdpa          torch's scaled dot product attention, sequence by sequence; any device, any dtype
============  =======================================================================================

All of them are exact; they differ by rounding alone.
"""

from typing import Literal

Backend = Literal["flash_attn", "varlen", "sdpa"]
