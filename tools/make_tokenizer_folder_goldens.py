#!/usr/bin/env python3
"""Writes tests/golden/text/folders.json: folders with unusual tokenizer files, and the padded ids that transformers gives.

    python3 tools/make_tokenizer_folder_goldens.py      (tools/setup/requirements-oracle.txt)

A case is one of the folders of tests/golden/text in which files are written anew, or taken out if null. tokenizer.json is
patched (RFC 7386) if the folder has one. "ids" is null where transformers refuses the folder.
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


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True,
            **flags}


def typed(content, **flags):
    return {"__type": "AddedToken", **token(content, **flags)}


def siglip1_tokens():
    """Which tokens the class finds in a text, and their ids. nfkc_unigram has 400 pieces; <s> and <extra> are none."""
    texts = ["a<s>b", "x <extra> y<Extra>", "a <pad> b", "<s>", "cat <s></s> <unk>"]
    for key in ("bos_token", "cls_token", "sep_token", "mask_token", "image_token"):
        siglip1(key, {key: "<s>"}, texts)
        siglip1(f"{key} as an object", {key: typed("<s>", lstrip=True, rstrip=True)}, texts)
        siglip1(f"{key} null", {key: None}, texts)
    siglip1("all at once", {"mask_token": "<extra>", "bos_token": "<s>", "cls_token": "</s>", "pad_token": "<pad>"}, texts)
    siglip1("special tokens that are no pieces", {"eos_token": "<s>", "pad_token": "<extra>"}, texts)
    siglip1("an empty pad_token", {"pad_token": ""}, texts)
    siglip1("extra tokens", {"extra_special_tokens": ["<extra>", "<s>"]}, texts)
    siglip1("an extra token as an object", {"extra_special_tokens": [typed("<extra>", rstrip=True)]}, texts)
    siglip1("extra tokens by name", {"extra_special_tokens": {"image_token": "<extra>"}}, texts)
    own = {"model_specific_special_tokens": {"image_token": "<extra>"}}
    siglip1("tokens of the model's own", own, texts)
    siglip1("tokens of the model's own and another name", {**own, "boi_token": "<s>"}, texts)
    siglip1("tokens of the model's own and extra tokens", {**own, "extra_special_tokens": ["<s>"]}, texts)
    siglip1("tokens of the model's own, none", {"model_specific_special_tokens": None}, texts)
    siglip1("tokens of the model's own as a list", {"model_specific_special_tokens": ["<extra>"]}, texts)
    siglip1("additional tokens", {"additional_special_tokens": ["<extra>", "<s>"]}, texts)
    siglip1("additional and extra tokens", {"additional_special_tokens": ["<extra>"], "extra_special_tokens": ["<s>"]}, texts)
    siglip1("additional tokens and no extra", {"additional_special_tokens": ["<extra>"], "extra_special_tokens": []}, texts)
    listed = {"1": token("</s>"), "2": token("<unk>"), "20": token("cat"), "9": token("<extra>", lstrip=True, rstrip=True)}
    siglip1("a special token that nobody names", {"added_tokens_decoder": listed}, ["cat", " cat", "a cat", *texts])
    siglip1("one past the pieces", {"added_tokens_decoder": {"450": token("<extra>")}, "bos_token": "<s>"}, texts)
    siglip1("one instead of a piece", {"added_tokens_decoder": {"7": token("</s>")}, "bos_token": "<s>"}, texts)
    siglip1("no AddedTokens", {"added_tokens_decoder": None}, texts)
    siglip1("white space next to tokens", {"added_tokens_decoder": {
        "10": token("\n"), "11": token("<extra>", lstrip=True, rstrip=True), "12": token(" x", rstrip=True), "13": token("x")}},
        ["a\nb", "a <extra>\nb", "a\n<extra> b", "<extra> x <extra>", "a\n\n<extra>\n x<extra> x"])
    siglip1("a list without its own special tokens", {"added_tokens_decoder": {"9": token("<extra>")}}, texts)
    siglip1("special_tokens_map.json", {}, texts, special_tokens_map_json={
        "pad_token": "<pad>", "bos_token": token("<s>", lstrip=True), "eos_token": token("</s>")})
    siglip1("special_tokens_map.json over the config", {"pad_token": "</s>"}, texts,
            special_tokens_map_json={"pad_token": "<pad>"})
    siglip1("special_tokens_map.json beside added_tokens_decoder", {"added_tokens_decoder": listed}, texts,
            special_tokens_map_json={"pad_token": "<pad>"})
    siglip1("additional tokens in special_tokens_map.json", {}, texts,
            special_tokens_map_json={"additional_special_tokens": ["<extra>"]})
    siglip1("additional tokens in special_tokens_map.json and none in the config", {"extra_special_tokens": []}, texts,
            special_tokens_map_json={"additional_special_tokens": ["<extra>"]})
    siglip1("extra tokens in special_tokens_map.json", {"extra_special_tokens": ["<s>"]}, texts,
            special_tokens_map_json={"extra_special_tokens": ["<extra>", "<s>"]})
    siglip1("added_tokens.json", {}, texts, added_tokens_json={"<Extra>": 401, "<pad>": 0})
    siglip1("added_tokens.json and a new token", {"bos_token": "<s>"}, texts, added_tokens_json={"<Extra>": 401})
    siglip1("added_tokens.json beside added_tokens_decoder", {"added_tokens_decoder": listed}, texts,
            added_tokens_json={"<Extra>": 401})
    siglip1("tokenizer.json", {}, texts, tokenizer_json={"added_tokens": [{"id": 400, **token("<extra>")}]})
    siglip1("tokenizer.json over added_tokens.json", {}, texts, added_tokens_json={"<s>": 400, "<Extra>": 401},
            tokenizer_json={"added_tokens": [{"id": 400, **token("<extra>")}]})
    siglip1("tokenizer.json beside added_tokens_decoder", {"added_tokens_decoder": listed}, texts,
            tokenizer_json={"added_tokens": [{"id": 400, **token("<Extra>")}]})
    siglip1("tokenizer.json without added_tokens", {}, texts, tokenizer_json={})
    siglip1("no length", {"model_max_length": None}, texts)
    for base in ("identity", "no_dummy_prefix", "byte_fallback", "bpe", "plain_nfkc"):
        siglip1(f"{base}, not legacy", {"legacy": False}, [*texts, " W", "don't", "\u2581a"], base=base)


def siglip2_tokens():
    """The same; gemma has 1158 pieces, all of its special ones in added_tokens."""
    texts = ["a<mask>b", "x <bos><unk> y", "<s> <extra> </b><unused1>", "<Normal> <NORMAL>"]

    def without(*contents):
        added = json.loads((GOLDENS / "gemma/tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
        return {"added_tokens": [one for one in added if one["content"] not in contents]}

    siglip2("special tokens that are not in added_tokens", {}, texts, tokenizer_json=without("<mask>", "<bos>", "<unk>"))
    siglip2("no added tokens", {}, texts, tokenizer_json={"added_tokens": []})
    siglip2("another mask_token", {"mask_token": "<extra>"}, texts, tokenizer_json=without("<mask>"))
    siglip2("no mask_token", {"mask_token": None}, texts, tokenizer_json=without("<mask>"))
    siglip2("tokens that are no pieces", {"mask_token": "<extra>", "cls_token": "<s>"}, texts)
    siglip2("other tokens for EOS and PAD", {"eos_token": "<unused1>", "pad_token": "<unused0>"}, texts)
    siglip2("extra tokens", {"extra_special_tokens": ["<extra>", typed("<s>", lstrip=True, rstrip=True)]}, texts)
    siglip2("extra tokens by name", {"extra_special_tokens": {"image_token": "<extra>"}}, texts)
    siglip2("tokens of the model's own", {"model_specific_special_tokens": {"image_token": "<extra>"}}, texts)
    siglip2("added_tokens_decoder", {"added_tokens_decoder": {
        "1157": token("<extra>", lstrip=True), "3": token("<unk>"), "1": token("<eos>"), "70000": token("<s>")}}, texts)
    siglip2("settings that are left out", {"added_tokens_decoder": {
        "1156": {"content": "<b>", "rstrip": True}, "5": {"content": "<unk>", "lstrip": True}}},
        [*texts, "x <b> y<B>", "x  <unk>", "X <B>"])
    siglip2("white space between tokens that take it", {"added_tokens_decoder": {
        "264": token("\n", lstrip=True, rstrip=True), "1": token("<eos>", lstrip=True)}}, ["\n\n", "a \n \n<eos>", "\n <eos>"])
    siglip2("a token of another id than its piece", {}, texts, tokenizer_json={"added_tokens": [
        {"id": 7, **token("<eos>")}, {"id": 5, **token("<extra>")}, {"id": 1157, **token("photo")}]})
    siglip2("two tokens of one id", {}, texts, tokenizer_json={"added_tokens": [
        {"id": 1157, **token("<s>")}, {"id": 1157, **token("<extra>")}]})
    siglip2("special_tokens_map.json", {}, texts, special_tokens_map_json={"pad_token": "<unused0>", "mask_token": "<s>"})
    siglip2("added_tokens.json", {}, texts, added_tokens_json={"<extra>": 9000, "<s>": 8000})
    siglip2("named tokens in added_tokens.json", {"mask_token": "<mask>"}, [*texts, "<BOS>"],
            tokenizer_json={"added_tokens": []}, added_tokens_json={"<mask>": 4, "<bos>": 2})
    siglip2("settings of the model that the class does not read", {}, [*texts, "\u6771\U0001f408", "photo"], tokenizer_json={
        "model": {"fuse_unk": False, "byte_fallback": False, "ignore_merges": True, "unk_token": None}})
    siglip2("do_lower_case null", {"do_lower_case": None}, texts)
    siglip2("split_special_tokens and new ones", {"split_special_tokens": True, "mask_token": "<extra>"}, texts)


def patch(target, change):
    if not isinstance(change, dict):
        return change
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = patch(target.get(key), value)
    return target


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
            content = patch(json.loads((folder / name).read_text(encoding="utf-8")), content)
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
    siglip1_tokens()
    siglip2_tokens()
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
