"""When an input of a unit cannot be read, those after it are read too, without tokenizing them, so that all that must
be put right is told in one run. A unit of several files is `unit_bytes` at most: that is what it costs."""

from contextlib import ExitStack
from pathlib import Path

from bamba_data.errors import BambaError, CorruptInput, InputChanged, WrongForm
from bamba_data.format.unit_records import Place
from bamba_data.locking.input_faults import InputFaults
from bamba_data.storage.fetch import Fetcher

from .plan import Job, Unit
from .readers import open_input

#: What is wrong with one input, whatever becomes of the others.
OF_ONE_INPUT = (CorruptInput, InputChanged, WrongForm)


def with_later_faults(
    fault: BambaError, position: int, unit: Unit, job: Job, fetcher: Fetcher, scratch: Path
) -> BambaError:
    """The fault of the unit's file at `position`, or it together with the faults of the files after it."""
    faults: list[BambaError] = [fault]
    for number in range(position + 1, len(unit.files)):
        file = unit.files[number]
        if file.quarantined:
            continue
        try:
            with ExitStack() as stack:
                begin, source = Place(number, 0, ""), job.sources[unit.source]
                opened = open_input(stack, file.locked, begin, source, job.recipe, fetcher, scratch)
                for _ in opened.items():
                    pass
        except OF_ONE_INPUT as another:
            faults.append(another)
        except BambaError:
            break  # a host that does not answer now: what is known is told
    return fault if len(faults) == 1 else InputFaults(faults)
