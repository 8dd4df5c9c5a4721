"""The numeric guard: a loss or gradient that is not a number never reaches the optimizer.

What was to blame is looked for by doing the step again, picture by picture, with an eye on every
layer. Where the configuration allows it, the run then goes back to a checkpoint and on from there
at half the learning rate, once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module, Parameter

from trainer.errors import UserError
from trainer.events import RolledBack
from trainer.training.batches import Batch
from trainer.training.checkpoints import load_before
from trainer.training.session import Session
from trainer.typed_torch import named_modules

Backward = Callable[[Batch], Tensor]  # forward and backward passes of a batch; gives its losses

SETBACK_FACTOR = 0.5  # what the learning rate is multiplied by after a setback


class NonFiniteError(UserError):
    """The loss or a gradient was not a number; the adapter was not moved."""


def refuse_non_finite(session: Session, losses: Tensor, norm: Tensor, backward: Backward) -> None:
    """Stop before the optimizer where a step's numbers are not finite.

    Args:
        losses: (2,) of training and preservation.
        norm: 0-d, of all gradients.
        backward: does a part of the step again, to find the picture and the layer.

    Raises:
        NonFiniteError: it names the step, the pictures and the layer.
    """
    # In fp16 gradients overflow now and then: the scaler skips the step and lowers its scale. At a
    # scale below 1 they would have overflowed without it.
    scaled = session.scaler.is_enabled() and session.scaler.get_scale() >= 1.0
    if losses.isfinite().all() and (norm.isfinite() or scaled):
        return
    what = "gradient" if losses.isfinite().all() else "loss"
    named = first_bad_gradient(session.parameters)
    session.optimizer.zero_grad(set_to_none=True)
    step = session.batches.samples(session.step)
    pictures = {sample.picture.entry.name for batch in step for sample in batch}
    if found := _find(session, backward):
        pictures, named = {found[0]}, found[1]
    session.optimizer.zero_grad(set_to_none=True)
    names = ", ".join(sorted(pictures))
    where = f"; first in {named}" if named else ""
    again = f" Its learning rate is halved since step {session.setback}." * bool(session.setback)
    raise NonFiniteError(
        f"The {what} of step {session.step + 1} is not a number (pictures: {names}{where}). The "
        f"adapter was left as it was after step {session.step}.{again}",
        "Look at these pictures. Start a new run with a lower optimizer.learning_rate or with "
        'training.precision fp32 or bf16; or resume with training.non_finite = "halve" in '
        "config.toml, which goes back and on at half the rate.",
        "non_finite",
    )


def roll_back(session: Session, error: NonFiniteError) -> RolledBack:
    """Go back to the newest checkpoint before the failed step's own state, at half the rate.

    Not to the state right before the step: from there the same numbers would come. All that is
    random is a function of the step, so a run that is killed afterwards goes the same way again.

    Raises:
        NonFiniteError: ``error``, where the configuration does not allow it, or it was done before.
    """
    if session.initial is None or session.setback:
        raise error
    failed = session.step + 1
    # Ends the scaler's step, which had begun; its scale is restored with the rest.
    session.scaler.update(session.scaler.get_scale())
    state = load_before(session.run, session.step) or session.initial
    session.restore(state)
    session.setback = state.setback or failed
    return RolledBack(
        session.step,
        failed,
        f"{error.message} Going back to step {session.step}, and on from there at half the "
        "learning rate.",
    )


def first_bad_gradient(parameters: dict[str, Parameter]) -> str:
    """The last parameter whose gradient is not finite: gradients come from the end to the front."""
    for name, parameter in reversed(parameters.items()):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return name
    return ""


def _find(session: Session, backward: Backward) -> tuple[str, str] | None:
    """The name of the first picture that gives such numbers alone, and where; None if none does."""
    for batch in session.batches.step(session.step):
        for part in batch.parts(1):
            session.optimizer.zero_grad(set_to_none=True)
            with _first_bad_output(session) as outputs:
                losses = backward(part)
            if not part.latents.isfinite().all():
                return part.names[0], "the picture's latents"
            if not losses.isfinite().all():
                return part.names[0], next(iter(outputs), "")
            if named := first_bad_gradient(session.parameters):
                return part.names[0], named
    return None


@contextmanager
def _first_bad_output(session: Session) -> Generator[list[str]]:
    """Collects the names of layers whose output is not finite, in the order of their calls."""
    names: list[str] = []

    def watch(name: str) -> Callable[[Module, Any, Any], None]:
        def hook(module: Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                names.append(name)

        return hook

    handles = [
        module.register_forward_hook(watch(f"{part}.{name}"))
        for part, root in session.base.modules().items()
        for name, module in named_modules(root)
        if part != "vae" and not any(module.children())
    ]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
