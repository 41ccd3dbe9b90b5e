#!/usr/bin/env python3
"""Writes tests/golden/text/folders.json: folders with unusual tokenizer files, and the padded ids that transformers gives.

    python3 tools/make_tokenizer_folder_goldens.py      (tools/setup/requirements-oracle.txt)

A case is one of the folders of tests/golden/text in which files are written anew; in tokenizer.json only the keys that
the case names, and what is null is taken out. "ids" is null where transformers refuses the folder.
"""

import json
import pathlib
import tempfile
import warnings

import transformers

GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "tests/golden/text"
LENGTH = 12
SIGLIP1_TEXTS = ["", "A Photo, of a cat", "a</s>b", "one two three four five six seven"]
SIGLIP2_TEXTS = ["", "A Photo, of a cat", "a<eos>b <b>", "one two three four five six seven"]

CASES = []


def siglip1(name, config, texts=(), base="nfkc_unigram", **files):
    files = {file.replace("_json", ".json"): content for file, content in files.items()}
    CASES.append({"name": f"SigLIP 1, {name}", "base": base, "files": {"tokenizer_config.json": config, **files},
                  "texts": [*SIGLIP1_TEXTS, *texts]})


def siglip2(name, config, texts=(), **files):
    files = {file.replace("_json", ".json"): content for file, content in files.items()}
    CASES.append({"name": f"SigLIP 2, {name}", "base": "gemma", "files": {"tokenizer_config.json": config, **files},
                  "texts": [*SIGLIP2_TEXTS, *texts]})


def padding(direction):
    return {"padding": {"strategy": {"Fixed": 64}, "direction": direction, "pad_to_multiple_of": None, "pad_id": 3,
                        "pad_type_id": 0, "pad_token": "<unk>"}}


def truncation(direction):
    return {"truncation": {"direction": direction, "max_length": 64, "strategy": "LongestFirst", "stride": 0}}


def sides():
    siglip1("nothing said", {})
    for side in ("left", "right", "Right", "middle", None, 1):
        siglip1(f"padding_side {side}", {"padding_side": side})
        siglip2(f"padding_side {side}", {"padding_side": side})
    siglip1("truncation_side left", {"truncation_side": "left"})
    siglip1("both sides left", {"truncation_side": "left", "padding_side": "left"})
    siglip1("truncation_side null", {"truncation_side": None})
    siglip1("split_special_tokens", {"split_special_tokens": True})
    siglip2("nothing said", {})
    siglip2("no tokenizer_config.json", None)
    # As the published files.
    for kind in ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer"):
        siglip2(f"{kind}, right", {"tokenizer_class": kind, "padding_side": "right"})
    for direction in ("Left", "Right"):
        siglip2(f"tokenizer.json pads {direction}", {}, tokenizer_json=padding(direction))
        siglip2(f"tokenizer.json cuts {direction}", {}, tokenizer_json=truncation(direction))
    siglip2("padding_side over tokenizer.json", {"padding_side": "right"}, tokenizer_json=padding("Left"))
    siglip2("truncation_side over tokenizer.json", {"truncation_side": "right"}, tokenizer_json=truncation("Left"))
    siglip2("both sides left", {"truncation_side": "left", "padding_side": "left"})
    siglip2("padding without a direction", {}, tokenizer_json={"padding": {"strategy": "BatchLongest"}})
    siglip2("padding to the right in small letters", {}, tokenizer_json=padding("right"))
    siglip2("split_special_tokens", {"split_special_tokens": True}, ["<b>x</b>", "a<mask>b", "<unused1><mask>"])


def write_folder(case, folder):
    base = GOLDENS / case["base"]
    for name in ("spiece.model", "tokenizer.json", "tokenizer_config.json"):
        if (base / name).exists():
            (folder / name).write_bytes((base / name).read_bytes())
    for name, content in case["files"].items():
        if content is None:
            (folder / name).unlink()
            continue
        if name == "tokenizer.json" and (folder / name).exists():
            content = {**json.loads((folder / name).read_text(encoding="utf-8")), **content}
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def padded_ids(folder, texts):
    kind = transformers.SiglipTokenizer if (folder / "spiece.model").exists() else transformers.Siglip2Tokenizer
    try:
        tokenizer = kind.from_pretrained(folder)
    except Exception as error:  # whatever it is: it does not load
        print(f"  {type(error).__name__}: {str(error)[:100]}")
        return None
    length = min(tokenizer.model_max_length, LENGTH)
    return [tokenizer(text, padding="max_length", truncation=True, max_length=length)["input_ids"] for text in texts]


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    sides()
    for case in CASES:
        print(case["name"])
        with tempfile.TemporaryDirectory() as temporary:
            write_folder(case, pathlib.Path(temporary))
            case["ids"] = padded_ids(pathlib.Path(temporary), case["texts"])
    golden = {"transformers": transformers.__version__, "length": LENGTH, "cases": CASES}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in CASES)
    head = json.dumps({key: value for key, value in golden.items() if key != "cases"})
    (GOLDENS / "folders.json").write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
