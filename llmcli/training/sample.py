"""A sample of text now and then, so that a person sees a model learn."""

from __future__ import annotations

from typing import Any

import torch

from llmcli.errors import InvalidInput
from llmcli.tokenization.tokenizer import Tokenizer
from llmcli.training.metrics import Report
from llmcli.training.schedule import Progress

_DEFAULT_PROMPT = "Once upon a time"


def check_sample_prompt(prompt: str, tokenizer: Tokenizer, *, context: int) -> None:
    """Refuse a prompt that leaves a sample no room.

    Raises:
        InvalidInput: it fills the context.
    """
    if prompt and not _fits(prompt, tokenizer, context):
        raise InvalidInput(
            f"The sample prompt has {len(tokenizer.ids(prompt))} tokens; the context holds "
            f"{context}, one of them for the continuation.",
            "Use a shorter --sample-prompt, or a larger --context.",
        )


def default_prompt(tokenizer: Tokenizer, *, context: int) -> str | None:
    """What samples begin with if nothing was asked for, cut to a small context; None if to 0."""
    words = _DEFAULT_PROMPT.split()
    prompts = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    return next((prompt for prompt in prompts if _fits(prompt, tokenizer, context)), None)


def _fits(prompt: str, tokenizer: Tokenizer, context: int) -> bool:
    return len(tokenizer.ids(prompt)) + tokenizer.adds_bos < context


class Sampler:
    """Hands ``report`` a record with a ``sample``.

    The generator that training draws from is left as it was.

    Args:
        tokenizer: The model's.
        start: The token that begins a text.
        prompt: What the sample continues; may be empty.
        context: Tokens that the model looks at; prompt and sample stay within.
        progress: The run's clock.
        report: Gets the record.
        max_new_tokens: Length of a sample.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        start: int,
        prompt: str,
        context: int,
        progress: Progress,
        report: Report,
        max_new_tokens: int = 40,
    ) -> None:
        self.tokenizer = tokenizer
        self.ids = [start, *(tokenizer.ids(prompt) if prompt else [])][: max(1, context - 1)]
        self.progress = progress
        self.report = report
        self.max_new_tokens = min(max_new_tokens, context - len(self.ids))

    @torch.no_grad()
    def __call__(self, model: Any, step: int) -> None:
        """Draw the sample from a model in training, which is left so."""
        if self.max_new_tokens < 1:
            return
        device = next(model.parameters()).device
        devices = [] if device.type == "cpu" else [device]
        model.eval()
        with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            torch.manual_seed(step)
            ids = torch.tensor([self.ids], device=device)
            drawn = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.max_new_tokens,
                do_sample=True,
                temperature=0.8,
                top_p=0.95,
                top_k=0,
                pad_token_id=self.ids[0],
                use_cache=True,
            )[0, 1:]
        model.train()
        text = self.tokenizer.decode_bytes(drawn.tolist()).decode("utf-8", "replace")
        self.report({"step": step, "progress": self.progress.fraction, "sample": text})
