"""Recipes: what the shipped ones say, and that every mistake is told at once."""

from pathlib import Path

import pytest

from wnod.image.errors import RecipeError
from wnod.image.recipe import load_recipe

SHIPPED = Path(__file__).parents[3] / "deploy/images"


def write(directory: Path, name: str, text: str) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(text)
    return path


def test_the_shipped_recipes_are_right() -> None:
    plain, science = (load_recipe(SHIPPED / f"{name}.yaml") for name in ("debian12", "debian12-sci"))
    assert plain.lrms == science.lrms == "slurm"
    assert science.name == "debian12-sci"
    assert set(plain.packages) < set(science.packages)
    assert "python3-numpy" in science.packages
    assert set(science.tags) == {"debian12", "numpy", "sci"}
    assert (plain.guest_files / "agent").exists()


def test_five_mistakes_in_one_answer(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "bad",
        "name: ../etc\nsuite: 12\nlrms: pbs\npackages: [ok, '--allow-unauthenticated']\nsource_date_epoch: yes\n",
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    said = str(caught.value)
    for field, value in [
        ("name", "'../etc'"),
        ("suite", "12"),
        ("lrms", "'pbs'"),
        ("packages", "--allow"),
        ("source_date_epoch", "True"),
    ]:
        assert any(f"{field}: is" in line and value in line and "; write" in line for line in said.splitlines()), field


def test_an_unknown_field_is_told_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"pakages: is \['x'\]; no such field; the fields are .*packages"):
        load_recipe(write(tmp_path, "typo", "name: a\nsuite: bookworm\npakages: [x]\n"))


def test_missing_fields_are_all_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "empty", "tags: [a]\n"))
    assert [line.split(": ")[1] for line in caught.value.mistakes] == ["name", "suite"]


def test_a_base_gives_what_is_not_said_and_lists_add_up(tmp_path: Path) -> None:
    write(tmp_path, "low", "name: low\nsuite: bookworm\npackages: [b1]\ntags: [t1]\ncompression: zstd\n")
    write(tmp_path, "mid", "base: low\nname: mid\npackages: [b2]\n")
    top = load_recipe(write(tmp_path, "top", "base: mid\nname: top\npackages: [b3, b1]\ntags: [t2]\n"))
    assert (top.name, top.suite, top.compression) == ("top", "bookworm", "zstd")
    assert top.packages == ("b1", "b2", "b3")
    assert top.tags == ("t1", "t2")


def test_bases_that_lead_back_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", "base: b\nname: a\nsuite: bookworm\n")
    with pytest.raises(RecipeError, match="leads back"):
        load_recipe(write(tmp_path, "b", "base: a\nname: b\nsuite: bookworm\n"))


def test_a_missing_base_is_told_with_the_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "x", "base: gone\nname: X\nsuite: bookworm\n"))
    assert len(caught.value.mistakes) >= 2
    assert "gone.yaml: cannot be read" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "a: [", "\x00", "name: &a [*a]\n"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, "odd", text))
