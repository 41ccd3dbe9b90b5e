"""For code written for open_clip or sentence-transformers: the same calls, answered in numpy.

    from siglip.habits import create_model_and_transforms, get_tokenizer          # open_clip
    model, _, preprocess = create_model_and_transforms("models/demo")
    rows = model.encode_image(np.stack([preprocess(image)]), normalize=True)
    texts = model.encode_text(get_tokenizer("models/demo")(["a cat"]), normalize=True)

    from siglip.habits import SentenceTransformer                                 # sentence-transformers
    rows = SentenceTransformer("models/demo").encode(["a cat", pil_image])

Other than there, the name of a model is the folder of a checkpoint, and arrays are numpy's; torch.from_numpy makes
tensors of them without a copy, and tensors are taken where arrays are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Model

if TYPE_CHECKING:
    import numpy.typing as npt


def normalized(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows scaled to length 1; zeros stay zeros."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


@functools.lru_cache(maxsize=1)
def _open(directory: str) -> Model:
    """One model for the three parts of open_clip's habit."""
    return Model(directory)


class OpenClipModel:
    """What create_model_and_transforms gives."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.logit_scale = np.float32(model.logit_scale)
        self.logit_bias = np.float32(model.logit_bias)

    def encode_image(self, image: npt.ArrayLike, normalize: bool = False) -> npt.NDArray[np.float32]:
        """[N, 3, S, S] -> [N, D]."""
        rows = self.model.encode_pixels(image)
        return normalized(rows) if normalize else rows

    def encode_text(self, text: npt.ArrayLike, normalize: bool = False) -> npt.NDArray[np.float32]:
        """[N, T] -> [N, D]."""
        rows = self.model.encode_tokens(text)
        return normalized(rows) if normalize else rows

    def eval(self) -> OpenClipModel:
        return self


def create_model_and_transforms(directory: str) -> tuple[OpenClipModel, Callable[[Any], npt.NDArray[np.float32]],
                                                         Callable[[Any], npt.NDArray[np.float32]]]:
    """(model, preprocess, preprocess): the transforms of training and of validation are the same here."""
    model = _open(directory)

    def preprocess(image: Any) -> npt.NDArray[np.float32]:
        """A PIL image, or whatever Model.embed_images takes -> [3, S, S]."""
        return model.preprocess([image])[0]

    return OpenClipModel(model), preprocess, preprocess


def get_tokenizer(directory: str) -> Callable[[str | Sequence[str]], npt.NDArray[np.int64]]:
    """Texts -> [N, T]."""
    model = _open(directory)
    return lambda texts: model.tokenize([texts] if isinstance(texts, str) else texts)


class SentenceTransformer:
    """encode() of texts, PIL images, or both mixed. A text is a str, so a path is a pathlib.Path."""

    def __init__(self, directory: str, **options: Any) -> None:
        self.model = Model(directory, **options)

    def get_sentence_embedding_dimension(self) -> int:
        return self.model.embedding_size

    def encode(self, sentences: Any, batch_size: int = 32, normalize_embeddings: bool = False,
               show_progress_bar: bool | None = None) -> npt.NDArray[np.float32]:
        """[N, D]; [D] for one that is not in a list. batch_size and show_progress_bar are not needed here."""
        del batch_size, show_progress_bar
        if not isinstance(sentences, (list, tuple)):
            return self.encode([sentences], normalize_embeddings=normalize_embeddings)[0]
        is_text = np.array([isinstance(item, str) for item in sentences], bool)
        rows = np.empty((len(sentences), self.model.embedding_size), np.float32)
        rows[is_text] = self.model.embed_texts([x for x in sentences if isinstance(x, str)])
        rows[~is_text] = self.model.embed_images([x for x in sentences if not isinstance(x, str)])
        return normalized(rows) if normalize_embeddings else rows

    @staticmethod
    def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Cosines, [N, M]."""
        return normalized(np.atleast_2d(a)) @ normalized(np.atleast_2d(b)).T
