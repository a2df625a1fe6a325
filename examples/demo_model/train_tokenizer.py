"""Train the demo's tokenizer on the grammar and write the four files of `google/umt5-xxl/`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
from grammar import ALL_SCENES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

VOCAB_SIZE = 140
SPECIAL_TOKENS = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def train_pieces() -> bytes:
    """A sentencepiece unigram model with T5's special tokens: 0 pad, 1 end, 2 unknown."""
    captions = [caption for scene in ALL_SCENES for caption in scene.captions()]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        required_chars="abcdefghijklmnopqrstuvwxyz,.",
        minloglevel=2,
    )
    return model.getvalue()


def build_tokenizer(spiece: bytes) -> Tokenizer:
    """The same pieces and scores as a `tokenizers` unigram model."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(len(processor))]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(), normalizers.Replace("  ", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return tokenizer


def write_tokenizer(folder: Path) -> Tokenizer:
    """Write the four tokenizer files into `folder` and return the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    spiece = train_pieces()
    (folder / "spiece.model").write_bytes(spiece)
    tokenizer = build_tokenizer(spiece)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL_TOKENS, indent=2) + "\n")
    settings = {"tokenizer_class": "T5TokenizerFast", "extra_ids": 0, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | SPECIAL_TOKENS, indent=2) + "\n")
    return tokenizer
