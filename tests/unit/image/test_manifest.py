"""An image is accepted when every byte is the manifest's, and refused for whatever could lead elsewhere."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wnod.image import manifest
from wnod.image.errors import FileMismatch, ImageError, ManifestError, UnsafeFile
from wnod.image.manifest import Manifest

CONTENT = {manifest.ROOT: b"hsqs" + bytes(range(200)), manifest.KERNEL: b"MZ kernel", manifest.INITRD: b"070701 initrd"}


def write_image(directory: Path, content: dict[str, bytes] = CONTENT, **changes: Any) -> Manifest:
    directory.mkdir(exist_ok=True)
    for name, data in content.items():
        (directory / name).write_bytes(data)
    fields = {
        "format": 1,
        "name": "debian12",
        "suite": "bookworm",
        "arch": "amd64",
        "files": {name: manifest.describe_file(directory / name) for name in content},
        "packages": {"slurmd:amd64": "22.05.8-4"},
        "kernel_release": "6.1.0-56-cloud-amd64",
        "lrms": "slurm",
        "lrms_version": "22.05.8-4",
        "tags": ("debian12",),
        "source_date_epoch": 1700000000,
        **changes,
    }
    made = Manifest(**fields)
    (directory / manifest.MANIFEST).write_bytes(made.canonical())
    return made


def check(directory: Path) -> None:
    manifest.verify(manifest.load(directory))


def test_an_image_is_what_was_written(tmp_path: Path) -> None:
    made = write_image(tmp_path)
    image = manifest.load(tmp_path)
    manifest.verify(image)
    assert image.manifest == made
    assert image.image_id == made.image_id
    assert (image.root, image.kernel, image.initrd) == tuple(tmp_path / name for name in manifest.FILES)


def test_the_id_does_not_depend_on_the_order_of_packages(tmp_path: Path) -> None:
    one = write_image(tmp_path, packages={"a": "1", "b": "2"})
    two = write_image(tmp_path, packages={"b": "2", "a": "1"})
    assert one.image_id == two.image_id


@pytest.mark.parametrize("change", [{"name": "other"}, {"packages": {}}, {"tags": ("x",)}, {"source_date_epoch": 1}])
def test_the_id_is_another_for_every_difference(tmp_path: Path, change: dict[str, Any]) -> None:
    assert write_image(tmp_path).image_id != write_image(tmp_path, CONTENT, **change).image_id


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(name=st.sampled_from(manifest.FILES), place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_no_changed_byte_is_missed(tmp_path: Path, name: str, place: int, flip: int) -> None:
    write_image(tmp_path)
    data = bytearray(CONTENT[name])
    data[place % len(data)] ^= flip
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError):
        check(tmp_path)


def test_a_file_that_grew_or_vanished_is_named(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / manifest.KERNEL).write_bytes(CONTENT[manifest.KERNEL] + b"more")
    with pytest.raises(FileMismatch, match=r"kernel: has 13 bytes, the manifest says 9"):
        check(tmp_path)
    (tmp_path / manifest.KERNEL).unlink()
    with pytest.raises(FileMismatch, match=r"kernel: cannot be read"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2"),
        (b"QED\0", "qed"),
        (b"KDMV", "vmdk"),
        (b"# Disk DescriptorFile\n", "vmdk"),
        (b"conectix", "vpc"),
    ],
)
def test_a_disk_format_that_can_refer_to_other_files_is_refused_even_with_the_right_hash(
    tmp_path: Path, head: bytes, kind: str
) -> None:
    write_image(tmp_path, {**CONTENT, manifest.ROOT: head + b"/etc/shadow"})
    with pytest.raises(UnsafeFile, match=kind):
        check(tmp_path)


def test_a_root_that_is_no_squashfs_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path, {**CONTENT, manifest.ROOT: b"something else"})
    with pytest.raises(UnsafeFile, match="not a squashfs"):
        check(tmp_path)


@pytest.mark.parametrize("name", [*manifest.FILES, manifest.MANIFEST])
def test_a_symbolic_link_is_refused_although_its_target_is_right(tmp_path: Path, name: str) -> None:
    write_image(tmp_path / "image")
    (tmp_path / "image" / name).rename(tmp_path / name)
    (tmp_path / "image" / name).symlink_to(tmp_path / name)
    with pytest.raises(UnsafeFile, match="symbolic link"):
        check(tmp_path / "image")


def test_a_fifo_does_not_hang_the_check(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / manifest.INITRD).unlink()
    os.mkfifo(tmp_path / manifest.INITRD)
    with pytest.raises(UnsafeFile, match="not a regular file"):
        check(tmp_path)


def test_a_manifest_must_name_exactly_the_files_of_an_image(tmp_path: Path) -> None:
    made = write_image(tmp_path)
    for files in ({}, {**made.files, "../../etc/shadow": made.files["kernel"]}):
        (tmp_path / manifest.MANIFEST).write_bytes(msgspec.structs.replace(made, files=files).canonical())
        with pytest.raises(ManifestError, match="expected exactly"):
            check(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "build the image again"),
        (b"[]", "build the image again"),
        (b'{"format": 2}', "format is 2, this version reads 1"),
        (b'{"format": 1, "surprise": 1}', "surprise"),
        (b" " * (5 << 20), "larger than"),
    ],
)
def test_a_malformed_manifest_is_refused_with_the_reason(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / manifest.MANIFEST).write_bytes(text)
    with pytest.raises(ManifestError, match=said):
        manifest.load(tmp_path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        manifest.load(tmp_path / "nowhere")


def test_a_hash_must_look_like_one(tmp_path: Path) -> None:
    made = write_image(tmp_path)
    text = made.canonical().replace(made.files["kernel"].sha256.encode(), b"X" * 64)
    (tmp_path / manifest.MANIFEST).write_bytes(text)
    with pytest.raises(ManifestError, match="sha256"):
        manifest.load(tmp_path)
