"""What a verification found: counts of what was looked at, and every fault."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Fault:
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"


@dataclass
class Report:
    """`faults` empty means sound, as far as `full` went. `reencoded` documents of the sample were encoded again,
    `from_upstream` of them from their upstream text; of `unproven` ones, by the reason, nothing can be said. `unlisted`
    objects lie among the shards of this version but belong to others, or to none."""

    dataset: str
    version: int
    full: bool
    shards: int = 0
    blocks: int = 0
    documents: int = 0
    tokens: int = 0
    bytes_read: int = 0
    reencoded: int = 0
    from_upstream: int = 0
    unproven: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0
    faults: list[Fault] = field(default_factory=list)

    def fault(self, where: str, detail: str) -> None:
        self.faults.append(Fault(where, detail))
