"""Small SentencePiece and BPE models, and strings of many scripts, for the tokenizer's goldens and oracle."""

import itertools
import json
import pathlib
import random

import sentencepiece

WORDS = {
    "latin": "the a photo of cat dog red house naïve façade über straße Ærø Łódź İstanbul ÉCOLE Œuvre don't a-b e.g. "
             "U.S.A. rock'n'roll C++ 3.14 50% #tag @user http://x.y/z?a=b&c=d".split(),
    "greek": "ΑΣ Σ ΑΣ-Α ΑΣ.Α ὈΔΥΣΣΕΎΣ ΣΊΣΥΦΟΣ ἈΡΧΉ φιλοσοφία ΣΑΣ".split(),
    "cyrillic": "Привет МИР кошка Ёлка ЩИ Ґанок".split(),
    "armenian": "ԲԱՐԵՒ Հայաստան".split(),
    "georgian": "ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ საქართველო".split(),
    "hebrew": "שָׁלוֹם עולם".split(),
    "arabic": "مرحبا بالعالم ﷺ ۱۲۳".split(),
    "devanagari": "नमस्ते दुनिया क्षि".split(),
    "thai": "สวัสดีชาวโลก ภาษาไทย".split(),
    "han": "東京 寫真 一只猫 ２０２６年 ㍿ ㎏".split(),
    "kana": "ねこ カタカナ ｶﾀｶﾅ ガ が".split(),
    "hangul": "고양이 각 각".split(),
    "cherokee": "ᏣᎳᎩ ꭰꮝ".split(),
    "deseret": "𐐔𐐯𐑅𐐨𐑉𐐯𐐻 𞤀𞤁".split(),
    "emoji": "🐈 🔥 👩‍👩‍👧 🇩🇪 👍🏽 ❤️ 🐈🔥".split(),
    "compat": "… ＡＢＣ！ ™ ½ ① ﬁ Ⅷ ẞ K Å ǅ ﬀ ¨ ´ ª ² ſ".split(),
    "marks": ["e\u0301", "E\u0301\u0327", "a\u0300\u0301\u0302\u0303", "\u0301", "\u0345Σ\u0345", "i\u0307"],
    "gemma": ["<eos>", "<bos>", "<pad>", "<EOS>", "<unused1>", "<unused", "</b>", "</B>", "\n\n", "\n\n\n", "<0x41>",
              "<eos> <eos>", "<strip>", " <strip> ", "<Normal>", "<normal>", "Ᲊ Ɤ 𐵐"],
    "special": ["</s>", "<unk>", "</S>", "<pad>", "<s>", "</s></s>", "<unk></s>", "< /s>", "</s", "▁", "▁▁x", "<extra>"],
    "punctuation": list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["—", "“q”", "¡¿", "§", "don’t", "...", "?!"],
    "space": [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u2028", "\u0085", "\u200b", "\ufeff",
              "\u180e", "\u001c", "\u202f", "\u205f", "\u1680"],
    "control": ["\u0000", "\u0001", "\u007f", "\u00ad", "\ufffd", "\U000e0001", "\uffff", "\U0010ffff"],
}

FIXED = [
    "", " ", "   ", "!!!", "^_~", "a", "A photo of a cat.", "a photo of a cat", " W", "W ", "a-b", "a - b", "don't",
    "a</s>b", "</s> hello", "hello</s>", "A </S> b", "</s>", "<unk>", "a <unk> b", "x" * 500, "word " * 200,
    "</s>" * 70, "</s>" * 63 + " hi", "</s>" * 3 + " hi", "🐈🔥", "🐈 🐈", "\u0000a\u0000", "ΑΣ", "Σ", "ΑΣ Σ ΣΑ",
    "İİİ", "▁a▁b", "▁", "▁</s>", "\u2581\u2581", "a\u0345Σ\u0345b", "AΣ\u0301", "AΣ'", "AΣ'B", "a</s></s>b", "</s>a</s>",
    "! </s> !", "a\u3000b", "\ufeffabc", "\u200babc\u200b",
]


def random_strings(count, seed):
    """Strings of mixed scripts, with white space, punctuation and special tokens strewn in."""
    rng = random.Random(seed)
    kinds = list(WORDS)
    result = list(FIXED)
    while len(result) < count:
        favourite = rng.choice(kinds)
        parts = []
        for _ in range(rng.choice([1, 1, 2, 3, 5, 8, 13, 40])):
            kind = favourite if rng.random() < 0.5 else rng.choice(kinds)
            part = rng.choice(WORDS[kind])
            if rng.random() < 0.2:
                part = rng.choice([str.upper, str.title, str.lower, str.swapcase])(part)
            if rng.random() < 0.05:
                part = chr(rng.choice([rng.randrange(0x80, 0xD800), rng.randrange(0xE000, 0x110000)]))
            parts.append(part)
            if rng.random() < 0.6:
                parts.append(" " if rng.random() < 0.8 else rng.choice(WORDS["space"]))
        result.append("".join(parts))
    return result


def long_strings(count, seed):
    """Of 10,000 to 60,000 characters: many of the others, and runs of characters that no model knows."""
    rng = random.Random(seed)
    words = random_strings(2000, seed)
    result = []
    for _ in range(count):
        parts, length = [], 0
        size = rng.randrange(10_000, 60_000)
        while length < size:
            if rng.random() < 0.05:
                alphabet = [chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.choice([1, 3, 500]))]
                parts.append("".join(rng.choice(alphabet) for _ in range(rng.choice([10, 3000, 20_000]))))
            else:
                parts.append(rng.choice(words) + rng.choice(["", " "]))
            length += len(parts[-1])
        result.append("".join(parts))
    return result


def repeated_strings(count, seed):
    """Strings that have many segmentations which are equally good but for rounding: "hahahaha", "aaaa"."""
    rng = random.Random(seed)
    result = []
    for _ in range(count):
        unit = "".join(rng.choice("abch") for _ in range(rng.randrange(1, 4)))
        words = [unit * rng.randrange(1, 90) for _ in range(rng.choice([1, 1, 2]))]
        result.append(rng.choice(["", "a photo of "]) + " ".join(words))
    return result


MODELS = {
    "nfkc_unigram": {"normalization_rule_name": "nmt_nfkc"},
    "nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf"},
    "identity": {"normalization_rule_name": "identity"},
    "plain_nfkc": {"normalization_rule_name": "nfkc"},
    "no_dummy_prefix": {"normalization_rule_name": "nmt_nfkc", "add_dummy_prefix": False},
    "keeps_space": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": False},
    "byte_fallback": {"normalization_rule_name": "nmt_nfkc", "byte_fallback": True, "vocab_size": 560},
    "bpe": {"normalization_rule_name": "nmt_nfkc", "model_type": "bpe"},
}

# tokenizer_config.json of each model: variants of what published files hold.
CONFIGS = {
    "nfkc_unigram": {"model_max_length": 16},
    "identity": {"do_lower_case": False},
    "bpe": {
        "added_tokens_decoder": {
            "1": {"content": "</s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                  "special": True},
            "2": {"content": "<unk>", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False,
                  "special": True},
            "5": {"content": "<extra>", "lstrip": False, "normalized": False, "rstrip": True, "single_word": False,
                  "special": True},
        },
    },
    "plain_nfkc": {"pad_token": {"__type": "AddedToken", "content": "<pad>", "lstrip": False, "normalized": False,
                                 "rstrip": False, "single_word": False, "special": True}},
}


def make_model(folder, name):
    """Trains one small model and writes its tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus = folder / "corpus.txt"
    lines = [line.replace("\u0000", "") for line in random_strings(1500, 7) if "\n" not in line and "\r" not in line]
    corpus.write_text("\n".join(lines + WORDS["latin"] * 20), encoding="utf-8")
    options = {"vocab_size": 400, "model_type": "unigram", "character_coverage": 0.98, **MODELS[name]}
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spiece"), hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1, pad_piece="<pad>", minloglevel=2, num_threads=1, **options)
    corpus.unlink()
    (folder / "spiece.vocab").unlink()
    config = {"tokenizer_class": "SiglipTokenizer", "model_input_names": ["input_ids"], **CONFIGS.get(name, {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def make_repeats_model(folder):
    """A unigram model of few letters and most of their pairs and triples, with scores of 24 bits and a user-defined piece."""
    from sentencepiece import sentencepiece_model_pb2

    rng = random.Random(5)
    model = sentencepiece_model_pb2.ModelProto()
    kind = model.SentencePiece
    model.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.UNIGRAM
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 2, -1
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = 1, 0
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True

    def add(text, score, what=kind.NORMAL):
        model.pieces.add(piece=text, score=score, type=what)

    add("<pad>", 0, kind.CONTROL)
    add("</s>", 0, kind.CONTROL)
    add("<unk>", 0, kind.UNKNOWN)
    add("hac", 0, kind.USER_DEFINED)
    add("bb", -3, kind.UNUSED)
    for letter in "▁abchpotf":
        add(letter, -rng.uniform(5, 9))
    for size in (2, 3):
        for letters in itertools.product("abch", repeat=size):
            text = "".join(letters)
            if rng.random() < 0.7 and text not in ("hac", "bb"):
                add(text, -rng.uniform(5, 9) * (0.4 + 0.6 * size))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "SiglipTokenizer", "model_input_names": ["input_ids"]}, indent=1) + "\n", encoding="utf-8")


# tokenizer.json of SigLIP 2, with Gemma's added tokens (some of them), and variants.
GEMMA_MODELS = {
    "gemma": {},
    # The old way to write merges, no pre_tokenizer; <bos>, as Gemma itself has it; no pieces for bytes.
    "gemma_variant": {"old_merges": True, "bos": True, "byte_fallback": False, "model_max_length": 16},
}


def make_gemma_model(folder, name):
    """Trains one small BPE model and writes tokenizer.json and tokenizer_config.json as SigLIP 2 has them."""
    import tokenizers

    options = GEMMA_MODELS[name]
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)] if options.get("byte_fallback", True) else []
    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=bool(of_bytes)))
    model.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    corpus = [line.lower() for line in random_strings(1500, 7)] + [" ".join(WORDS["latin"]).lower()] * 20
    model.train_from_iterator(corpus, tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, limit_alphabet=250, show_progress=False, max_token_length=12))
    trained = json.loads(model.to_str())
    pieces = dict.fromkeys(special + of_bytes + list(trained["model"]["vocab"]))
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    added = special + ["<unused0>", "<unused1>", "\n\n", "\n\n\n", "▁▁", "<b>", "</b>", "<strip>", "<Normal>"]
    for content in added:
        vocabulary.setdefault(content, len(vocabulary))
    trained["model"]["vocab"] = vocabulary
    if options.get("old_merges"):
        trained["model"]["merges"] = [" ".join(pair) for pair in trained["model"]["merges"]]
    else:
        trained["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                                    "invert": False}
    trained["added_tokens"] = [
        {"id": vocabulary[content], "content": content, "single_word": False, "lstrip": content == "<strip>",
         "rstrip": content == "<strip>", "normalized": content == "<Normal>", "special": content in special}
        for content in added]
    around = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}] if options.get("bos") else []
    around += [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}]
    trained["post_processor"] = {
        "type": "TemplateProcessing", "single": around, "pair": around + [{"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [vocabulary[token]], "tokens": [token]}
                           for token in ("<bos>", "<eos>")}}
    (folder / "tokenizer.json").write_text(json.dumps(trained, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right",
        "do_lower_case": True, "model_input_names": ["input_ids"], "pad_token": "<pad>", "eos_token": "<eos>",
        "bos_token": "<bos>", "unk_token": "<unk>", "model_max_length": options.get("model_max_length", int(1e30))},
        indent=1) + "\n", encoding="utf-8")


def reference_ids(folder, texts, longest=64):
    """The un-padded ids of transformers' SiglipTokenizer or Siglip2Tokenizer, cut to its model_max_length, or `longest`."""
    import transformers

    folder = pathlib.Path(folder)
    kind = transformers.SiglipTokenizer if (folder / "spiece.model").exists() else transformers.Siglip2Tokenizer
    tokenizer = kind.from_pretrained(folder)
    length = min(tokenizer.model_max_length, longest)
    return [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
