"""Tiny random models of an encoder and a decoder, with tokenizers of their own kinds, and masked
ones.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

_TEXT = [
    "The old fox walked in the wood and said good morning to the hens.",
    "Good morning, my friends: twelve hens are in the house by the river!",
    "Bonjour mes amis, le renard est dans la forêt avec douze poules.",
    "Guten Morgen, meine Freunde; der alte Fuchs ging durch den Wald.",
]
_SIZES: dict[str, Any] = {
    "d_model": 16,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
    "max_position_embeddings": 48,
}
_LANGUAGES = ["deu_Latn", "eng_Latn", "fra_Latn"]


def _sentencepiece(**settings: Any) -> bytes:
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT * 4),
        model_writer=written,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 120, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, **settings},
    )
    return written.getvalue()


def _pieces(data: bytes) -> list[str]:
    import sentencepiece

    read = sentencepiece.SentencePieceProcessor(model_proto=data)
    return [read.id_to_piece(number) for number in range(3, read.get_piece_size())]


def _save(folder: Path, module: Any, **settings: Any) -> None:
    """Random weights, large enough that answers differ, and settings for generating."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        for parameter in module.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    module.tie_weights()
    for name, value in settings.items():
        setattr(module.generation_config, name, value)
    module.save_pretrained(folder)


def _of_files(folder: Path, kind: str, named: str, **files: bytes) -> Any:
    for name, data in files.items():
        (folder / name.replace("_dot_", ".")).write_bytes(data)
    (folder / "config.json").write_text(json.dumps({"model_type": kind}), "utf-8")
    content = {"tokenizer_class": named, "source_lang": "en", "target_lang": "fr"}
    (folder / "tokenizer_config.json").write_text(json.dumps(content), "utf-8")
    load: Any = transformers.AutoTokenizer.from_pretrained
    return load(str(folder))


def _t5(folder: Path) -> None:
    data = _sentencepiece(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    tokenizer = _of_files(folder, "t5", "T5Tokenizer", spiece_dot_model=data)
    tokenizer.save_pretrained(folder)
    made: Any = transformers.T5Config
    config = made(
        vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    _save(folder, transformers.T5ForConditionalGeneration(config))


def _bart(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    _train(tokenizer, trainers.BpeTrainer, 340, special, pre_tokenizers.ByteLevel.alphabet())
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    _dressed(folder, tokenizer, special, cls_token="<s>", sep_token="</s>")
    config = transformers.BartConfig(vocab_size=tokenizer.get_vocab_size(), **_SIZES)
    module = transformers.BartForConditionalGeneration(config)
    _save(folder, module, forced_bos_token_id=0, no_repeat_ngram_size=3)


def _marian(folder: Path) -> None:
    data = _sentencepiece()
    pieces = ["</s>", "<unk>", *_pieces(data), ">>fra<<", ">>deu<<", "<pad>"]
    vocabulary = json.dumps({piece: number for number, piece in enumerate(pieces)})
    _of_files(
        folder,
        "marian",
        "MarianTokenizer",
        source_dot_spm=data,
        target_dot_spm=data,
        vocab_dot_json=vocabulary.encode(),
    )
    pad = len(pieces) - 1
    config = transformers.MarianConfig(
        vocab_size=pad + 1, pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0,
        forced_eos_token_id=0, **_SIZES,
    )  # fmt: skip
    _save(
        folder,
        transformers.MarianMTModel(config),
        bad_words_ids=[[pad]],
        max_length=14,
        num_beams=3,
    )


def _nllb(folder: Path) -> None:
    files = {"sentencepiece_dot_bpe_dot_model": _sentencepiece()}
    tokenizer = _of_files(folder, "m2m_100", "NllbTokenizer", **files)
    tokenizer.add_special_tokens({"additional_special_tokens": _LANGUAGES})
    tokenizer.set_src_lang_special_tokens("eng_Latn")
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer), decoder_start_token_id=2, **_SIZES
    )
    _save(folder, transformers.M2M100ForConditionalGeneration(config))


def _m2m100(folder: Path) -> None:
    data = _sentencepiece()
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *_pieces(data)]
    vocabulary = json.dumps({piece: number for number, piece in enumerate(pieces)})
    files = {"sentencepiece_dot_bpe_dot_model": data, "vocab_dot_json": vocabulary.encode()}
    tokenizer = _of_files(folder, "m2m_100", "M2M100Tokenizer", **files)
    size = max(tokenizer.lang_token_to_id.values()) + 1
    config = transformers.M2M100Config(vocab_size=size, decoder_start_token_id=2, **_SIZES)
    _save(folder, transformers.M2M100ForConditionalGeneration(config))


def bert(folder: Path) -> None:
    """BERT, cased as its tokenizer is not."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _train(tokenizer, trainers.WordPieceTrainer, 120, special, [])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    _dressed(folder, tokenizer, special)
    config = transformers.BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=32, max_position_embeddings=24,
    )  # fmt: skip
    _save(folder, transformers.BertForPreTraining(config))


def roberta(folder: Path) -> None:
    """RoBERTa, whose positions begin behind the padding token's."""
    _bart(folder)
    (folder / "generation_config.json").unlink()
    config = transformers.RobertaConfig(
        vocab_size=340, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=26,
    )  # fmt: skip
    _save(folder, transformers.RobertaForMaskedLM(config))


def _train(
    tokenizer: Tokenizer, kind: Any, size: int, special: list[str], alphabet: list[str]
) -> None:
    trainer = kind(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_TEXT * 4, trainer)


def _dressed(folder: Path, tokenizer: Tokenizer, special: list[str], **named: str) -> None:
    kinds = {"pad": "pad_token", "unk": "unk_token", "mask": "mask_token"}
    kinds |= {"cls": "cls_token", "sep": "sep_token", "s": "bos_token", "/s": "eos_token"}
    names = {kinds[text.strip("<>[]").lower()]: text for text in special}
    dressed: Any = transformers.PreTrainedTokenizerFast
    dressed(tokenizer_object=tokenizer, **names, **named).save_pretrained(folder)


TRANSLATORS: dict[str, Callable[[Path], None]] = {
    "t5": _t5,
    "bart": _bart,
    "marian": _marian,
    "nllb": _nllb,
    "m2m100": _m2m100,
}
MASKED: dict[str, Callable[[Path], None]] = {"bert": bert, "roberta": roberta}
