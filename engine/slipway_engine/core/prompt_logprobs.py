"""How likely the prompt's own tokens were: from rows of logits, a few at a time, which bounds the copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from slipway_engine.core.messages import TokenLogprob

ROWS_AT_ONCE = 8


def score(logits: torch.Tensor, tokens: Sequence[int], alternatives: int) -> tuple[TokenLogprob, ...]:
    """Return the log-probability of `tokens[i]` after row i of `logits` [rows, vocabulary], and the best."""
    entries: list[TokenLogprob] = []
    for start in range(0, len(tokens), ROWS_AT_ONCE):
        some = tokens[start : start + ROWS_AT_ONCE]
        rows = torch.log_softmax(logits[start : start + len(some)], dim=1)
        own = rows.gather(1, torch.tensor(some, device=rows.device).unsqueeze(1)).squeeze(1).tolist()
        values, ids = rows.topk(min(alternatives, rows.shape[1]), dim=1)
        for token, one, best_ids, best in zip(some, own, ids.tolist(), values.tolist(), strict=True):
            entries.append(TokenLogprob(token, one, tuple(zip(best_ids, best, strict=True))))
    return tuple(entries)
