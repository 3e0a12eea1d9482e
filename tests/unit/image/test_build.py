"""What a build leaves under the image's final name: a whole image, whatever was there before."""

import argparse
import shutil
from pathlib import Path

import pytest

from tests.unit.image.test_manifest import write_image
from wnod.image import cli, manifest
from wnod.image.build import _publish
from wnod.image.kernel import Kernel
from wnod.image.recipe import load_recipe
from wnod.image.tree import _PROGRAMS as PROGRAMS
from wnod.image.tree import add_guest_files


def test_an_equal_image_that_is_there_is_kept(tmp_path: Path) -> None:
    write_image(tmp_path / "final")
    before = (tmp_path / "final" / manifest.ROOT).stat().st_ino
    _publish(tmp_path / "result", tmp_path / "final", write_image(tmp_path / "result"))
    assert (tmp_path / "final" / manifest.ROOT).stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("damage", ["root", "missing", "manifest", "no manifest", "a file"])
def test_a_damaged_image_is_replaced_as_its_error_promises(tmp_path: Path, damage: str) -> None:
    """The remedy for a damaged image is to build it again: that kept the damaged one and failed for ever."""
    final = tmp_path / "final"
    write_image(final, packages={"other": "1"} if damage == "manifest" else {"slurmd:amd64": "22.05.8-4"})
    if damage == "root":
        (final / manifest.ROOT).write_bytes(b"hsqs" + bytes(200))
    elif damage == "missing":
        (final / manifest.KERNEL).unlink()
    elif damage == "no manifest":
        (final / manifest.MANIFEST).unlink()
    elif damage == "a file":
        final.rename(tmp_path / "elsewhere")
        final.write_text("")
    made = write_image(tmp_path / "result")
    assert _publish(tmp_path / "result", final, made).image_id == made.image_id
    manifest.verify(manifest.load(final))
    assert manifest.load(final).image_id == made.image_id
    assert {path.name for path in tmp_path.iterdir()} <= {"final", "elsewhere"}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    recipe = Path(__file__).parents[3] / "deploy/images/debian12.yaml"
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ["build", "--recipe", str(recipe), "--output", str(tmp_path / "file")]
    assert cli.run(parser.parse_args(words)) == 1
    assert f"{tmp_path}/file/debian12: Not a directory; is there room" in capsys.readouterr().err


def test_what_a_user_starts_in_a_vm_is_static_and_keeps_his_environment(tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    (tmp_path / "bin").mkdir()
    shutil.copyfile(busybox, tmp_path / "bin/busybox")
    recipe = load_recipe(Path(__file__).parents[3] / "deploy/images/debian12.yaml")
    add_guest_files(recipe, tmp_path, Kernel("6.1", b"", (), {}))
    place = tmp_path / "usr/libexec/wnod"
    first = {path.name: path.read_text().split("\n")[0] for path in place.iterdir() if path.name in PROGRAMS}
    assert first == dict.fromkeys(PROGRAMS, "#!/usr/libexec/wnod/busybox sh") | {
        "starter": "#!/usr/libexec/wnod/kernel-calls gate"
    }
    assert all((place / name).stat().st_mode & 0o777 == 0o755 for name in (*PROGRAMS, "kernel-calls", "busybox"))
    assert b"/lib64/ld-linux" not in (place / "kernel-calls").read_bytes()
