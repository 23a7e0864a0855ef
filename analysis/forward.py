"""Predicted responses to pictures of the token cache, as many at once as there is memory for."""

import numpy as np
import torch
from jaxtyping import Float, Int

from analysis import explained
from analysis.batches import Part, Resident
from analysis.features import Tokens
from analysis.files import InputError
from analysis.model import FactorTopy
from analysis.progress import say
from analysis.rivals import Rival

PREDICTED_AT_ONCE = 32  # pictures


def halved(at_once: int, doing: str, error: torch.OutOfMemoryError) -> int:
    """A smaller working size after GPU memory ran out, said so.

    Raises:
        InputError: if it was one picture.
    """
    if at_once == 1:
        raise InputError(
            f"GPU memory ran out while {doing} one picture at once; expected room for that. Choose"
            " fewer vertices (region, n_surface), a GPU that no one else uses, or the CPU"
            " (CUDA_VISIBLE_DEVICES= python -m analysis ...)."
        ) from error
    torch.cuda.empty_cache()
    smaller = -(-at_once // 2)
    say(f"GPU memory ran out while {doing} {at_once} pictures at once: {smaller} from now on.")
    return smaller


def predict(
    model: FactorTopy | Rival, tokens: Tokens | Resident, pictures: Int[np.ndarray, " picture"]
) -> Float[np.ndarray, "picture vertex"]:
    """Predicted responses to pictures (BOLD z-score)."""
    device = model.weight.device
    out = np.empty((len(pictures), len(model.bias)), np.float32)
    start, at_once = 0, PREDICTED_AT_ONCE
    with torch.inference_mode():
        chosen = model.selectors()
        while start < len(pictures):
            some = slice(start, start + at_once)
            local, global_ = tokens[pictures[some]]
            try:
                out[some] = model(local.to(device), global_.to(device), chosen).cpu().numpy()
            except torch.OutOfMemoryError as error:
                at_once = halved(at_once, "predicting", error)
            else:
                start += at_once
    return out


def validation_score(model: FactorTopy | Rival, tokens: Tokens | Resident, part: Part) -> float:
    """Mean R² over vertices on single trials."""
    predicted = predict(model, tokens, part.pictures)
    return float(np.nanmean(explained.r2(predicted[part.trial_picture], part.responses)))
