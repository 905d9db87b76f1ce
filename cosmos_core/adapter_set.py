"""Many adapters on one network, chosen and mixed from one video to the next without loading anything again.

Merged (the default) the chosen mixture is added into the weights, and the network runs as fast as the base. Unmerged
the adapters act next to the base weights through PEFT, as in the reference; every forward pays for it, and switching is
free. Both compute the same function; in bfloat16 they differ by its rounding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from cosmos_core import lora
from cosmos_core.adapter_merge import KeepBase, MergedWeights, Update, update_norms
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch
from cosmos_core.lora_state_dict import LoraSpec, check_adapter_tensors

__all__ = ["AdapterSet"]


class AdapterSet:
    """The adapters of one network.

    Args:
        dit: the network; its weights are changed in place when adapters are merged.
        merge: add the adapters in use into the weights.
        keep_base: where the base weights of adapted layers are kept while adapters are merged. `device` switches
            fastest and doubles the memory of these layers; `host` keeps them in pinned memory of the host.
    """

    def __init__(self, dit: DiT, *, merge: bool = True, keep_base: KeepBase = "device") -> None:
        self.dit = dit
        self.merge = merge
        self._linears = dict(lora.adaptable_linears(dit))
        self._weights = MergedWeights(self._linears, keep=keep_base)
        self._specs: dict[str, LoraSpec] = {}
        self._tensors: dict[str, dict[str, Tensor]] = {}
        self._active: dict[str, float] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded adapters, in the order of their loading."""
        return tuple(self._specs)

    @property
    def active(self) -> dict[str, float]:
        """The adapters that act now, and their strengths."""
        return dict(self._active)

    @property
    def num_bytes(self) -> dict[str, int]:
        """Memory of the adapters' matrices and of the kept base weights."""
        matrices = [tensor for tensors in self._tensors.values() for tensor in tensors.values()]
        return {
            "adapters": sum(tensor.numel() * tensor.element_size() for tensor in matrices),
            "base": self._weights.num_base_bytes,
        }

    def spec(self, name: str) -> LoraSpec:
        """What an adapter was trained with.

        Raises:
            AdapterMismatch: no adapter of that name is loaded.
        """
        lora.check_loaded({name}, self._specs)
        return self._specs[name]

    def base_weight(self, module: str) -> Tensor | None:
        """The weight [out, in] of a linear layer, that of the base while no adapter is in use; none if quantised."""
        linear = self._linears[module]
        return linear.weight if type(linear) is nn.Linear else None

    def add(self, name: str, tensors: Mapping[str, Tensor], spec: LoraSpec) -> None:
        """Load an adapter, inactive; what is in use stays so.

        Args:
            name: of the adapter, in `use`.
            tensors: `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank].
            spec: what the adapter was trained with.

        Raises:
            AdapterMismatch: the tensors are not exactly those that the declaration asks for, or the name is taken or
                unusable. The network is left as it was.
        """
        if not name or name in self._specs:
            raise AdapterMismatch(
                "adapter name already loaded or empty", got=repr(name), expected="a new name", fix="Choose another name"
            )
        if self.merge:
            check_adapter_tensors(tensors, lora.adapter_shapes(self.dit, spec), spec)
            self._weights.keep(sorted(_modules(tensors)))
            # In the file's dtype: merging rounds once, at the end. Copies, because a file may be mapped into memory.
            self._tensors[name] = {key: value.to(self.dit.device, copy=True) for key, value in tensors.items()}
        else:
            lora.add_adapter(self.dit, tensors, spec, name=_peft_name(name))
            self._tensors[name] = lora.adapter_tensors(self.dit, _peft_name(name))
        self._specs[name] = spec

    def remove(self, name: str) -> None:
        """Unload an adapter and free its memory; the others stay in use.

        Raises:
            AdapterMismatch: no adapter of that name is loaded.
        """
        lora.check_loaded({name}, self._specs)
        self.use({other: strength for other, strength in self._active.items() if other != name})
        if not self.merge:
            lora.unload_adapter(self.dit, _peft_name(name))
        modules = _modules(self._tensors.pop(name))
        del self._specs[name]
        for module in modules - {module for tensors in self._tensors.values() for module in _modules(tensors)}:
            self._weights.forget(module)

    def use(self, strengths: Mapping[str, float]) -> bool:
        """Make exactly these adapters act; 0 or absence switches one off, and with none the base is there bit for bit.

        Args:
            strengths: factor on the update of every adapter by name; 1 is what it was trained with.

        Returns:
            Whether anything had to be changed.

        Raises:
            AdapterMismatch: an adapter is not loaded.
            BadRequest: a strength is not a finite number.
        """
        wanted = lora.wanted_strengths(strengths, self._specs)
        wanted = {name: wanted[name] for name in self._specs if name in wanted}  # one order, so one rounding
        changed = self._merge(wanted) if self.merge else wanted != self._active
        if not self.merge and changed:
            lora.activate(self.dit, {_peft_name(name): strength for name, strength in wanted.items()})
        self._active = wanted
        return changed

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of every loaded adapter."""
        return {name: sum(tensor.numel() for tensor in tensors.values()) for name, tensors in self._tensors.items()}

    def num_base_parameters(self) -> int:
        """Number of parameters of the network without adapters."""
        others = sum(
            weight.numel()
            for name, weight in self.dit.named_parameters()
            if ".lora_" not in name and name.removesuffix(".weight").removesuffix(".base_layer") not in self._linears
        )
        # Quantised layers hold no parameters, and stand for as many.
        return others + sum(linear.in_features * linear.out_features for linear in self._linears.values())

    def effective_norms(self, name: str) -> dict[str, float]:
        """Frobenius norm of alpha / rank * B A of every adapted layer, at strength 1.

        Raises:
            AdapterMismatch: no adapter of that name is loaded.
        """
        scale, tensors = self.spec(name).scale, self._tensors[name]
        modules = [module for module in self._linears if f"{module}.lora_A" in tensors]
        return update_norms((m, scale, tensors[f"{m}.lora_A"], tensors[f"{m}.lora_B"]) for m in modules)

    def _merge(self, wanted: Mapping[str, float]) -> bool:
        touched = {module for tensors in self._tensors.values() for module in _modules(tensors)}
        changed = False
        for module in self._linears:
            if module in touched:
                acting = tuple((n, s) for n, s in wanted.items() if f"{module}.lora_A" in self._tensors[n])
                updates = [self._update(name, module, strength) for name, strength in acting]
                changed |= self._weights.apply(module, acting, updates)
        return changed

    def _update(self, name: str, module: str, strength: float) -> Update:
        tensors = self._tensors[name]
        return Update(strength * self._specs[name].scale, tensors[f"{module}.lora_A"], tensors[f"{module}.lora_B"])


def _modules(tensors: Mapping[str, Tensor]) -> set[str]:
    return {name.rpartition(".")[0] for name in tensors}


def _peft_name(name: str) -> str:
    """A name for PEFT, whose names become names of submodules: `its@production` and `keys` cannot serve as they are."""
    return "set_" + re.sub(r"[^A-Za-z0-9_]", lambda match: f"-{ord(match[0]):x}-", name)
