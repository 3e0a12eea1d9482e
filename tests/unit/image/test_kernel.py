"""Modules are loaded after those they need."""

from pathlib import Path

from wnod.image.kernel import load_order, without_signature


def fake_modules(directory: Path, needs: dict[str, str]) -> dict[str, Path]:
    for name, depends in needs.items():
        (directory / f"{name}.ko").write_bytes(b"ELF\0license=GPL\0depends=" + depends.encode() + b"\0retpoline=Y\0")
    return {name.replace("-", "_"): directory / f"{name}.ko" for name in needs}


def test_each_module_comes_after_its_needs_and_once(tmp_path: Path) -> None:
    available = fake_modules(
        tmp_path,
        {
            "virtio_pci": "virtio,virtio_ring,virtio-pci-lib",
            "virtio": "virtio_ring",
            "virtio_ring": "",
            "virtio-pci-lib": "virtio",
            "virtio_blk": "virtio",
        },
    )
    order = [module.name for module in load_order(["virtio_pci", "virtio_blk"], available)]
    assert order == ["virtio_ring.ko", "virtio.ko", "virtio_pci_lib.ko", "virtio_pci.ko", "virtio_blk.ko"]


def test_what_is_built_into_the_kernel_is_left_out(tmp_path: Path) -> None:
    available = fake_modules(tmp_path, {"overlay": "crc32c"})
    assert [module.name for module in load_order(["ext4", "overlay"], available)] == ["overlay.ko"]


def test_a_signature_is_taken_off_and_nothing_else() -> None:
    module = b"ELF content that may hold ~Module signature appended~\n somewhere"
    signature = bytes(range(256)) * 2
    signed = module + signature + b"\0" * 8 + len(signature).to_bytes(4, "big") + b"~Module signature appended~\n"
    assert without_signature(signed) == module
    assert without_signature(module) == module
