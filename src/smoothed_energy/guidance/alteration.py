"""Alterations: changes of what modules compute in passes of the denoiser that are made anyway."""

from __future__ import annotations

__all__ = ["Alteration", "AlteredRows"]

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..denoisers.cfg_batch import Formulation
from ..intercept.module_call import ModuleCall, Rows
from .perturbation import LayerCall


@dataclass(frozen=True, eq=False)
class AlteredRows:
    """The rows of a pass that an alteration acts on, and what it may use there.

    Attributes:
        rows: These rows.
        added: The same rows once more, with another text; None if the pass has none.
        told: How the first altered module is called with the other text, by these rows alone; None
            if the alteration doesn't ask for it.
        memory: What the alteration keeps until other images begin.
    """

    rows: Rows
    added: Rows | None
    told: ModuleCall | None
    memory: dict[Any, Any]


class Alteration(ABC):
    """A change of what modules compute in every pass of a step, the clean one included.

    Attributes:
        branch: The prediction whose rows are changed; None: all of them.
        perturbs: Whether it makes a prediction worse that others may perturb, too.
        is_one_attention: Whether it says what an attention of its modules is; what others make of
            several attentions is then made of these.
        reads_text: Whether it asks how its modules are called with another text.
        adds_rows: Whether its rows run once more beside themselves, with another text.
        text: The other text, by the names of the denoiser's arguments; None: that of the run.
    """

    branch: Formulation | None = None
    perturbs: bool = False
    is_one_attention: bool = False
    reads_text: bool = False
    adds_rows: bool = False
    text: Mapping[str, Any] | None = None

    @abstractmethod
    def run(self, call: LayerCall, part: AlteredRows) -> Any:
        """What a module gives, changed in some rows of the pass.

        Args:
            call: The call of the module, as it is without this alteration.
            part: These rows.
        """
