from __future__ import annotations

from typing import Any

import pytest

from llmcli.errors import InvalidInput
from llmcli.training.settings import Adapter, ModelShape, TrainSettings


@pytest.mark.parametrize(
    ("cls", "wrong", "says"),
    [
        (ModelShape, {"n_embd": 30, "n_head": 4}, "not divisible by 4 heads"),
        (ModelShape, {"vocab_size": 256}, "at least 257"),
        (ModelShape, {"n_layer": 0}, "n_layer is 0"),
        (TrainSettings, {"batch_size": 0}, "batch_size is 0"),
        (TrainSettings, {"learning_rate": 0.0}, "learning_rate is 0.0"),
        (TrainSettings, {"learning_rate": float("nan")}, "learning_rate is nan"),
        (TrainSettings, {"learning_rate": float("inf")}, "learning_rate is inf"),
        (TrainSettings, {"max_time": -1.0}, "max_time is -1.0"),
        (TrainSettings, {"max_steps": 0}, "max_steps is 0"),
        (TrainSettings, {"validation": 1.0}, "validation is 1.0"),
        (TrainSettings, {"dropout": float("nan")}, "dropout is nan"),
        (TrainSettings, {"decay": 0.0}, "decay is 0.0"),
        (TrainSettings, {"weight_decay": -0.1}, "weight_decay is -0.1"),
        (TrainSettings, {"early_stopping": 0}, "early_stopping is 0"),
        (Adapter, {"rank": 0}, "lora_rank is 0"),
        (Adapter, {"alpha": 0.0}, "lora_alpha is 0.0"),
    ],
)
def test_out_of_range(cls: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        cls(**wrong)
    assert says in caught.value.message
    assert caught.value.cure
