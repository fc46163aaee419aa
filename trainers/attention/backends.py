"""Backends of packed attention, by name.

============  =======================================================================================
flash_attn    the flash-attn package's variable-length kernel; GPUs
flash_attn_4  the flash-attn-4 package's: the fastest on GPUs of compute capability 9 and 10
varlen        the kernel of flash-attn as torch brings it; GPUs, no package needed
sdpa          torch's scaled dot product attention, sequence by sequence; any device, any dtype
============  =======================================================================================

All of them are exact; they differ by rounding alone.
"""

from typing import Literal

Backend = Literal["flash_attn", "flash_attn_4", "varlen", "sdpa"]
