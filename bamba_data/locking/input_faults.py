"""Several inputs that cannot be read, told at once and not one a run."""

from collections.abc import Sequence

from bamba_data.errors import BambaError

SHOWN = 10


class InputFaults(BambaError):
    """`faults` are all that were found, `way_out` is what to do about them. Its exit code is the highest of theirs."""

    def __init__(self, faults: Sequence[BambaError], way_out: str = "") -> None:
        super().__init__(list(faults), way_out)
        self.faults, self.way_out = list(faults), way_out
        self.exit_code = max(fault.exit_code for fault in faults)
        self.of_environment = all(fault.of_environment for fault in faults)

    def __str__(self) -> str:
        more = len(self.faults) - SHOWN
        lines = [f"{len(self.faults):,} inputs cannot be read:"]
        lines += [f"  {fault}" for fault in self.faults[:SHOWN]]
        lines += [f"  and {more:,} more"] if more > 0 else []
        return "\n".join([*lines, *([self.way_out] if self.way_out else [])])
