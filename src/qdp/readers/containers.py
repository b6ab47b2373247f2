# SPDX-License-Identifier: Apache-2.0
"""Files that hold arrays: .npy .npz .pt .safetensors .h5 .zarr and .pb (TensorProto).

Each reader returns the arrays by name, "" for a file's only one, as anything shaped and sliced
like an array; .npy, .h5 and .zarr are read only as far as rows are asked for. Nothing here
unpickles, and torch loads weights only.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from qdp import arrays
from qdp.arrays import Array
from qdp.readers.files import File, optional_module

_TF_DOUBLE = 2  # DT_DOUBLE of TensorFlow


def read_npy(file: File) -> Mapping[str, Any]:
    """Return the array of a .npy file, mapped into memory where it is local."""
    try:
        if file.local is not None:
            return {"": np.load(file.local, mmap_mode="r", allow_pickle=False)}
        return {"": np.load(io.BytesIO(file.read()), allow_pickle=False)}
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{file.path}: truncated, or not a .npy file of numbers ({error})"
        ) from error


def read_npz(file: File) -> Mapping[str, Any]:
    """Return the arrays of a .npz file."""
    try:
        with np.load(file.stream(), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{file.path}: truncated, or not a .npz file of numbers ({error})"
        ) from error


def read_torch(file: File) -> Mapping[str, Any]:
    """Return the tensors of a .pt file: one, or a dictionary of them; weights only."""
    torch = optional_module("torch", "torch")
    try:
        content = torch.load(file.stream(), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged or refused file
        raise ValueError(
            f"{file.path}: truncated, or not a file of tensors alone ({error})"
        ) from error
    tensors = content if isinstance(content, dict) else {"": content}
    return {
        str(name): arrays.to_numpy(tensor, str(name))
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def read_safetensors(file: File) -> Mapping[str, Any]:
    """Return the arrays of a .safetensors file."""
    safetensors = optional_module("safetensors", "safetensors")
    numpy = optional_module("safetensors.numpy", "safetensors")
    try:
        return dict(numpy.load(file.read()))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file.path}: truncated, or not a .safetensors file ({error})") from error


def read_hdf5(file: File) -> Mapping[str, Any]:
    """Return the data sets of a .h5 file, by their path in it, read as rows are asked for."""
    h5py = optional_module("h5py", "hdf5")
    try:
        stored = h5py.File(file.stream(), "r")
    except OSError as error:
        raise ValueError(f"{file.path}: truncated, or not an HDF5 file ({error})") from error
    found: dict[str, Any] = {}
    stored.visititems(
        lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
    )
    return found


def read_zarr(path: str) -> Mapping[str, Any]:
    """Return the arrays of a zarr store, read as rows are asked for."""
    zarr = optional_module("zarr", "zarr")
    try:
        stored = zarr.open(path, mode="r")
    except Exception as error:  # zarr raises many kinds for what is no store
        raise ValueError(f"{path}: expected a zarr store, got other data ({error})") from error
    if isinstance(stored, zarr.Array):
        return {"": stored}
    return {name: item for name, item in stored.members() if isinstance(item, zarr.Array)}


def read_tensor_proto(file: File) -> Mapping[str, Any]:
    """Return the float64 array of a TensorProto file."""
    return {"": parse_tensor_proto(file.read(), file.path)}


def parse_tensor_proto(content: bytes, name: str) -> Array:
    """Return the array in a TensorFlow TensorProto message of DT_DOUBLE.

    Fields read: dtype (1), tensor_shape (2), tensor_content (4), double_val (6).

    Raises:
        ValueError: cut short, of another dtype, or with a shape that the values don't fill.

    >>> import struct
    >>> header = bytes([8, 2, 18, 4, 18, 2, 8, 2, 34, 16])
    >>> parse_tensor_proto(header + struct.pack("<2d", 1.0, 2.5), "x")
    array([1. , 2.5])
    """
    dtype, values = 0, b""
    shape: list[int] = []
    for field, value in _fields(content, name):
        if field == 1 and isinstance(value, int):
            dtype = value
        elif field == 2 and isinstance(value, bytes):
            for inner, dimension in _fields(value, name):
                if inner == 2 and isinstance(dimension, bytes):
                    sizes = [size for key, size in _fields(dimension, name) if key == 1]
                    shape.append(sizes[-1] if sizes and isinstance(sizes[-1], int) else 0)
        elif field in (4, 6) and isinstance(value, bytes):
            values += value
    if dtype != _TF_DOUBLE:
        raise ValueError(f"{name}: expected a TensorProto of DT_DOUBLE (2), got dtype {dtype}")
    size = math.prod(shape)
    if size == 0 or len(values) != 8 * size:
        raise ValueError(
            f"{name}: expected {size} values for shape {tuple(shape)}, at least one, got "
            f"{len(values) / 8:g}"
        )
    return np.frombuffer(values, "<f8").reshape(shape)


def _fields(content: bytes, name: str) -> list[tuple[int, int | bytes]]:
    """Return the fields of a protocol buffer message as (number, integer or bytes)."""
    found: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(content):
        key, place = _varint(content, place, name)
        kind = key & 7
        if kind == 0:
            number, place = _varint(content, place, name)
            found.append((key >> 3, number))
            continue
        if kind == 2:
            length, place = _varint(content, place, name)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"{name}: expected a TensorProto, got wire type {kind}")
        if place + length > len(content):
            raise ValueError(f"{name}: truncated: a field of {length} bytes is cut")
        found.append((key >> 3, content[place : place + length]))
        place += length
    return found


def _varint(content: bytes, place: int, name: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError(f"{name}: truncated in a number")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError(f"{name}: expected a TensorProto, got a number of more than 10 bytes")
