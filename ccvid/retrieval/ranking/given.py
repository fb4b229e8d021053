"""Read distances and features of other programs, with labels, from NumPy archives (.npz) and tables (Parquet).

Keys of an archive, for Q queries and G gallery entries:

    distmat                 (Q, G) distances, smaller is nearer
    qf, gf                  (Q, D) and (G, D) features, instead of distances; compared by cosine
    q_pids, g_pids          persons
    q_camids, g_camids      cameras
    q_oids, g_oids          outfits, if known; compared only within one person
    q_NAME, g_NAME          any other pair: attribute NAME (location and scale have their own protocols)

Labels are one-dimensional, integers or text. Empty text in outfits or attributes is an unknown label. Queries get the
ids q0, q1, …, gallery entries g0, g1, …: no query is itself in the gallery.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ccvid.retrieval.embedding.table import EmbeddingTable, read_embeddings
from ccvid.retrieval.ranking.distances import CosineDistances, DistanceMatrix, Distances
from ccvid.retrieval.ranking.labels import Column, RetrievalLabels
from data_tools.errors import InputError
from data_tools.wording import one_line

Arrays = Mapping[str, npt.NDArray[Any]]
MOST_REPEATED_BYTES = 2**28
MOST_INFLATED = 200
"""Highest compression ratio of arrays larger than ``MOST_REPEATED_BYTES``."""
LABEL_KEYS = {"pids": "person", "camids": "camera", "oids": "clothes"}


class GivenRetrieval(NamedTuple):
    """A retrieval to score, with labels for the rows and columns of the distances."""

    distances: Distances
    query: RetrievalLabels
    gallery: RetrievalLabels


def read_distances(path: Path) -> GivenRetrieval:
    """Read distances and labels from an archive; distances are compared in their own precision.

    Raises:
        InputError: not an archive, a missing key, a wrong shape, a distance that is not finite, or labels of a wrong
            type; the message names the file and the key. Pickled objects are not loaded.
    """
    arrays = _read_archive(path, ("distmat",))
    distances = DistanceMatrix(arrays["distmat"], origin=f"{path}: distmat")
    return GivenRetrieval(distances, *_both_labels(arrays, distances.shape, path))


def read_features(path: Path) -> GivenRetrieval:
    """Read features and labels from a .npz archive (``qf`` and ``gf``), or else from a Parquet table.

    A table has the columns id, person, camera, split, embedding and optionally clothes and attributes (see
    ``read_embeddings``); rows without a person and rows of split train are ignored.

    Raises:
        InputError: as ``read_distances`` and ``read_embeddings``; also if no query or gallery row has a person.
    """
    if path.suffix.lower() == ".npz":
        arrays = _read_archive(path, ("qf", "gf"))
        features = CosineDistances(arrays["qf"], arrays["gf"], origin=str(path))
        return GivenRetrieval(features, *_both_labels(arrays, features.shape, path))
    table = read_embeddings(path)
    query, gallery = (_labelled(table.part(split)) for split in ("query", "gallery"))
    for part, split in ((query, "query"), (gallery, "gallery")):
        if not part.rows:
            raise InputError(f"{path}: no row of split {split!r} has a person; queries and gallery are both needed")
    distances = CosineDistances(query.embedding_ND, gallery.embedding_ND, origin=str(path))
    return GivenRetrieval(distances, RetrievalLabels.from_rows(query.rows), RetrievalLabels.from_rows(gallery.rows))


def _labelled(table: EmbeddingTable) -> EmbeddingTable:
    return table.take(np.flatnonzero(table.rows.columns["person"].is_valid().to_numpy(zero_copy_only=False)))


def _read_archive(path: Path, values: tuple[str, ...]) -> Arrays:
    """The arrays of the archive, with the required labels and ``values`` present."""
    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:  # zipfile, zlib and NumPy each raise their own exceptions for damaged files
        reason = error.strerror if isinstance(error, OSError) else None
        raise InputError(f"{path}: {reason or 'not a .npz archive written by numpy.savez'}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise InputError(f"{path}: a single array, expected a .npz archive of several, written by numpy.savez")
    with archive:
        found = archive.files
        names = [name for name in found if name in values or name.startswith(("q_", "g_"))]
        _check_sizes(archive, names, path)
        arrays = {name: _read_array(archive, name, path) for name in names}
    needed = (*values, *(f"{side}_{key}" for key in ("pids", "camids") for side in "qg"))
    if missing := [name for name in needed if name not in arrays]:
        raise InputError(f"{path}: no key {', '.join(missing)}; found {one_line(', '.join(found) or 'none')}")
    return arrays


def _check_sizes(archive: Any, names: list[str], path: Path) -> None:
    """Refuse arrays that compress more than any real distances do: they would only fill the memory."""
    size = sum(
        archive.zip.getinfo(member).file_size for name in names if (member := f"{name}.npy") in archive.zip.namelist()
    )
    packed = path.stat().st_size
    if size > max(MOST_REPEATED_BYTES, MOST_INFLATED * packed):
        raise InputError(
            f"{path}: its {packed} bytes unpack to {size / 2**30:.1f} GiB of arrays, expected at most {MOST_INFLATED} "
            "times the file's size"
        )


def _read_array(archive: Any, name: str, path: Path) -> npt.NDArray[Any]:
    try:
        _check_header(archive, name)
        array = archive[name]
    except Exception as error:  # as in _read_archive
        reason = f"cannot be read: {one_line(error)}"
        if "allow_pickle" in reason:
            reason = "holds pickled objects, which are not loaded; save numbers or text"
        raise InputError(f"{path}: {_shown_key(name)} {reason}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: {_shown_key(name)} is not an array")
    return array


def _check_header(archive: Any, name: str) -> None:
    """Raise ``ValueError`` if a header claims more data than the file holds: NumPy would allocate it before reading."""
    members = archive.zip.namelist()
    info = archive.zip.getinfo(name if name in members else f"{name}.npy")
    with archive.zip.open(info) as stream:
        if not stream.peek(1).startswith(np.lib.format.MAGIC_PREFIX):
            return  # NumPy returns the raw bytes
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"NumPy format {version}, expected one of {list(_HEADERS)}")
        shape, _, kind = _HEADERS[version](stream)
    if not kind.hasobject and math.prod(shape) * kind.itemsize > info.file_size:
        raise ValueError(f"{kind} of shape {shape}, which its {info.file_size} bytes cannot hold")


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def _shown_key(name: str) -> str:
    return one_line(name, 100)


def _both_labels(arrays: Arrays, shape: tuple[int, int], path: Path) -> tuple[RetrievalLabels, RetrievalLabels]:
    names = sorted({name[2:] for name in arrays if name.startswith(("q_", "g_"))})
    for name in names:
        _check_pair(name, arrays, path)
    return _labels("q", names, arrays, shape[0], path), _labels("g", names, arrays, shape[1], path)


def _check_pair(name: str, arrays: Arrays, path: Path) -> None:
    keys = f"q_{name}", f"g_{name}"
    for key, other in (keys, keys[::-1]):
        if key not in arrays:
            raise InputError(f"{path}: no key {_shown_key(key)} to go with {_shown_key(other)}")
        if arrays[key].dtype.kind not in "iuSU":
            kind = one_line(arrays[key].dtype, 100)
            raise InputError(f"{path}: {_shown_key(key)}: {kind}, expected integers or text")
    for key, known in LABEL_KEYS.items():
        if name == known:
            raise InputError(f"{path}: {keys[0]}: name {known} labels q_{key} and g_{key}")
    kinds = ["integers" if arrays[key].dtype.kind in "iu" else "text" for key in keys]
    if kinds[0] != kinds[1]:
        first, second = map(_shown_key, keys)
        raise InputError(f"{path}: {first} holds {kinds[0]}, {second} {kinds[1]}; both must be of the same kind")


def _labels(side: str, names: list[str], arrays: Arrays, count: int, path: Path) -> RetrievalLabels:
    if not count:
        raise InputError(f"{path}: no {'query' if side == 'q' else 'gallery'} entries, nothing to score")
    columns = {name: _column(arrays[f"{side}_{name}"], count, f"{path}: {side}_{_shown_key(name)}") for name in names}
    known = {"oids": (None,) * count, **columns}
    for key in ("pids", "camids"):
        if None in known[key]:
            raise InputError(f"{path}: {side}_{key}: entry {known[key].index(None)} is empty")
    return RetrievalLabels(
        ids=tuple(f"{side}{row}" for row in range(count)),
        person=tuple(map(str, known["pids"])),
        camera=tuple(map(str, known["camids"])),
        clothes=known["oids"],
        attributes={name: column for name, column in columns.items() if name not in LABEL_KEYS},
    )


def _column(values: npt.NDArray[Any], count: int, origin: str) -> Column:
    if values.shape != (count,):
        raise InputError(f"{origin}: labels of shape {values.shape}, expected {(count,)}: one per entry")
    try:
        texts = (np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values.astype(np.str_)).tolist()
    except UnicodeDecodeError:
        raise InputError(f"{origin}: not UTF-8 text") from None
    return tuple(text or None for text in texts)
