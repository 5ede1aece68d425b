"""Make PyTorch's build for CUDA load without NVIDIA's libraries: for the image of machines without GPUs.

    python cpu_torch.py SITE-PACKAGES

PyPI has one build of PyTorch for Linux, that for CUDA; of the 4 GB that it brings, 3 are NVIDIA's libraries. The loader
wants them also where there is no GPU. Here each that is missing becomes a stub in torch/lib: a library of that name
with the symbols that PyTorch asks it for, whose functions return an error (100, "no device") and do nothing. PyTorch's
own files stay as they are, so a run on CPUs ends with the same weights, bit by bit, in both images; it finds no GPU, on
a machine that has one as well. docs/decisions/0013 says why not PyTorch's own index.

Needs pyelftools, and `as` and `ld` of GNU binutils.
"""

import pathlib
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict

from elftools.elf.elffile import ELFFile

LIBRARIES = ("libcu", "libnccl", "libnv")
SYMBOLS = ("cu", "nccl", "nv")  # what their names begin with: some libraries have no versions to know them by
DRIVER = "libcuda.so.1"  # no package has it but the machine; PyTorch loads what needs it only where it is
RETURN_NO_DEVICE = {"x86_64": "mov $100, %eax\nret", "aarch64": "mov w0, #100\nret"}


class Library:
    """What one shared library needs, defines, and leaves to others."""

    def __init__(self, path: pathlib.Path) -> None:
        with path.open("rb") as file:
            elf = ELFFile(file)
            self.needed = [tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")]
            origins = {}  # number of a version -> the library that it is asked of, and the version's name
            asked = elf.get_section_by_name(".gnu.version_r")
            for library, versions in asked.iter_versions() if asked else ():
                for version in versions:
                    origins[version.entry.vna_other] = (library.name, version.name)
            numbers = elf.get_section_by_name(".gnu.version")
            self.defined: set[str] = set()
            self.undefined: dict[str, tuple[str | None, str]] = {}  # symbol -> library if known, version or ""
            for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
                if symbol["st_info"]["bind"] == "STB_LOCAL" or not symbol.name:
                    continue
                if symbol["st_shndx"] != "SHN_UNDEF":
                    self.defined.add(symbol.name)
                elif symbol["st_info"]["bind"] == "STB_GLOBAL":
                    self.undefined[symbol.name] = origins.get(numbers.get_symbol(index)["ndx"], (None, ""))


def missing(site_packages: pathlib.Path) -> dict[str, dict[str, str]]:
    """Return what an installed PyTorch lacks: name of the library -> symbol -> its version, or ""."""
    folders = [site_packages / name for name in ("torch", "torch/lib", "torchvision", "torchvision.libs")]
    there = {path.name: Library(path) for folder in folders for path in folder.glob("*.so*")}
    defined = set().union(*(library.defined for library in there.values()))
    stubs: dict[str, dict[str, str]] = {}
    for library in there.values():
        lacks = [name for name in library.needed if name.startswith(LIBRARIES) and name not in {*there, DRIVER}]
        for name in lacks:
            stubs.setdefault(name, {})
        for symbol, (origin, version) in library.undefined.items():
            if origin in lacks:
                stubs[origin][symbol] = version
            elif lacks and origin is None and symbol.startswith(SYMBOLS) and symbol not in defined:
                stubs[lacks[0]][symbol] = version  # any: without a version the loader asks all
    return stubs


def assembly(symbols: dict[str, str]) -> str:
    """Return a stub's source: all its functions are one."""
    names = "\n".join(f'.globl "{name}"\n.type "{name}", %function\n"{name}":' for name in symbols)
    code = RETURN_NO_DEVICE[platform.machine()]
    return f'.text\n{names}\n{code}\n.section .note.GNU-stack,"",%progbits\n'


def version_script(symbols: dict[str, str]) -> str:
    """Return the versions of a stub's symbols as `ld` reads them; empty where there are none."""
    symbols_of = defaultdict(list)
    for symbol, version in symbols.items():
        if version:
            symbols_of[version].append(f'"{symbol}";')
    return "\n".join(f"{version} {{ global: {' '.join(names)} }};" for version, names in symbols_of.items())


def write_stub(path: pathlib.Path, symbols: dict[str, str]) -> None:
    """Assemble and link a stub."""
    with tempfile.TemporaryDirectory() as folder:
        source, compiled, versions = (pathlib.Path(folder) / name for name in ("stub.s", "stub.o", "stub.map"))
        source.write_text(assembly(symbols))
        versions.write_text(version_script(symbols))
        subprocess.run(["as", source, "-o", compiled], check=True)  # noqa: S603, S607 - of the build stage
        options = ["--version-script", versions] if versions.stat().st_size else []
        command = ["ld", "-shared", "-soname", path.name, *options, "-o", path, compiled]
        subprocess.run(command, check=True)  # noqa: S603 - of the build stage


def main() -> None:
    """Write the stubs that PyTorch in a folder of packages lacks, and say which."""
    site_packages = pathlib.Path(sys.argv[1])
    for name, symbols in sorted(missing(site_packages).items()):
        write_stub(site_packages / "torch" / "lib" / name, symbols)
        print(f"{name}: {len(symbols)} symbols")


if __name__ == "__main__":
    main()
