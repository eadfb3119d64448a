"""One self-contained page that shows a model from inside."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from llmcli.terminal.page import Page, shown_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmcli.tasks.inspect.lens import Lens
    from llmcli.tasks.inspect.request import Inspection

_SCALE = 65535


def write_inspect_page(
    write: Callable[[bytes], Any],
    seen: Inspection,
    token_bytes: Callable[[int], bytes],
    provenance: Mapping[str, Any],
) -> None:
    """Write the page piece by piece; the attention matrices never lie in it all at once.

    Args:
        write: Takes the page's bytes.
        seen: What to show.
        token_bytes: The bytes of a token.
        provenance: Where it comes from, as JSON has it.
    """
    page = Page("inspect", write)
    page.begin("maps")
    for each in () if seen.attention is None else seen.attention.maps:
        page.item([each.layer, each.head, packed(each.weights)])
    page.end()
    page.data("data", _content(seen, token_bytes, provenance))
    page.finish()


def packed(weights: NDArray[np.float32]) -> str:
    """The lower triangle of a causal matrix, row by row, in 65535ths, 16 bits each, base64."""
    import numpy as np

    rows, columns = np.tril_indices(len(weights))
    whole = np.rint(weights[rows, columns] * _SCALE).astype("<u2")
    return base64.b64encode(whole.tobytes()).decode("ascii")


def _content(
    seen: Inspection, token_bytes: Callable[[int], bytes], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    views = seen.views
    if seen.attention is not None:
        views["attention"] = {"heads": views["attention"]["heads"]}
    if seen.lens is not None:
        views["lens"] = _lens(seen.lens)
    return {
        "tokens": list(seen.tokens),
        "window": list(seen.window),
        "layers": seen.n_layers,
        "heads": seen.n_heads,
        "vocabulary": {str(token): shown_bytes(token_bytes(token)) for token in seen.named_tokens},
        "provenance": dict(provenance),
        **views,
    }


def _lens(lens: Lens) -> dict[str, Any]:
    """Rows of cells [[[id, logprob]...], KL, rank, agrees]; four digits are seen."""
    return {
        "start": lens.start,
        "settled": list(lens.settled),
        "rows": [
            [
                [
                    [[token, round(logprob, 4)] for token, logprob in cell.top[:5]],
                    round(cell.kl, 4),
                    cell.rank,
                    cell.agrees,
                ]
                for cell in row
            ]
            for row in lens.layers
        ],
    }
