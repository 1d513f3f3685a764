"""What GPUs can do by their data sheets: memory, bandwidth, and products a second without sparsity."""

from dataclasses import dataclass

from bamba_data.errors import UserError


@dataclass(frozen=True, slots=True)
class Gpu:
    """`fp8_flops` is None where the GPU multiplies no 8-bit floats: weights in fp8 then save bytes and no products."""

    name: str
    memory_bytes: float
    bytes_per_second: float
    bf16_flops: float
    fp8_flops: float | None

    def flops(self, *, fp8: bool) -> float:
        """Floating point operations a second of dense products."""
        return self.fp8_flops if fp8 and self.fp8_flops else self.bf16_flops


#: SXM modules but the L40S, from the maker's data sheets. There GB and TB are powers of 10.
GPUS = {
    "a100": Gpu("A100 SXM 80 GB", 80e9, 2.039e12, 312e12, None),
    "h100": Gpu("H100 SXM 80 GB", 80e9, 3.35e12, 989.4e12, 1978.9e12),
    "h200": Gpu("H200 SXM 141 GB", 141e9, 4.8e12, 989.4e12, 1978.9e12),
    "l40s": Gpu("L40S 48 GB", 48e9, 0.864e12, 362e12, 733e12),
}


def gpu_named(name: str) -> Gpu:
    """The GPU of that name; UserError lists those that are known."""
    if name.lower() not in GPUS:
        raise UserError(f"--gpu {name}: not known here; these are: {', '.join(GPUS)}")
    return GPUS[name.lower()]
