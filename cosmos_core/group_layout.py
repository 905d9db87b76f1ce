"""How the processes of one group share a video: which numbers of them are legal, and what each of them computes.

    branches   with guidance and an even number of processes, the first half computes the conditional branch and the
               second half the unconditional one; they exchange their results once a step
    tokens     the processes of a branch hold equal runs of its flattened tokens, and for self-attention trade them
               against whole heads (Ulysses)

Neither tokens nor heads need to divide evenly, so every number of processes up to the number of heads is legal. With
more, some would have no head. No torch here: a plan is made without it.

Source of the exchange of tokens against heads: Jacobs et al., DeepSpeed Ulysses, arXiv:2309.14509.
"""

from __future__ import annotations

from dataclasses import dataclass

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.errors import BadConfig

__all__ = ["GroupLayout", "check_group_size", "even_split", "group_layout", "legal_group_sizes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLayout:
    """Rank r computes branch r // ulysses, and of it the share r % ulysses."""

    cfg: int
    """Branches of guidance that are computed side by side: 1 or 2."""
    ulysses: int
    """Processes that share the tokens and heads of one branch."""

    def __str__(self) -> str:
        return f"cfg {self.cfg} x ulysses {self.ulysses}"


def legal_group_sizes(architecture: DiTArchitecture) -> tuple[int, ...]:
    """Numbers of processes that can render one video of this model together, with guidance and without."""
    return tuple(range(1, architecture.num_heads + 1))


def check_group_size(architecture: DiTArchitecture, size: int) -> None:
    """Refuse a number of processes that cannot share the model.

    Raises:
        BadConfig: the size is none of `legal_group_sizes`.
    """
    legal = legal_group_sizes(architecture)
    if size not in legal:
        raise BadConfig(
            "number of processes that render one video together",
            got=size,
            expected=" | ".join(map(str, legal)),
            fix=f"The model has {architecture.num_heads} attention heads, and each process needs one.",
        )


def group_layout(architecture: DiTArchitecture, size: int, *, guided: bool) -> GroupLayout:
    """Who computes what in a group of that size.

    Args:
        architecture: numbers of the transformer.
        size: processes of the group.
        guided: whether there is an unconditional branch.

    Raises:
        BadConfig: the size is none of `legal_group_sizes`.
    """
    check_group_size(architecture, size)
    if guided and size % 2 == 0:
        return GroupLayout(cfg=2, ulysses=size // 2)
    return GroupLayout(cfg=1, ulysses=size)


def even_split(count: int, parts: int) -> tuple[int, ...]:
    """Sizes of that many parts of `count` things, which differ by one at most, the larger ones first."""
    size, larger = divmod(count, parts)
    return (size + 1,) * larger + (size,) * (parts - larger)
