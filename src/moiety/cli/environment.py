"""``moiety env``: what is installed and what it runs on; the first thing a bug report needs."""

from __future__ import annotations

import logging
import os
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from moiety.cli.door import CheckFailed
from moiety.cli.screen import show, show_json, table

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "numpy", "pillow", "scikit-learn", "matplotlib")
OPTIONAL = ("peft", "trl", "gradio", "openai", "triton")
# The three settings with which glibc keeps freed blocks; measured in speed/, never set by the library.
HEAP = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}


def version_of(package: str) -> str | None:
    """Installed version of a package, None when it is absent."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts() -> dict[str, Any]:
    """Everything ``moiety env`` shows, as plain data."""
    import torch

    import moiety

    cuda = torch.cuda.is_available()
    return {
        "moiety": moiety.__version__,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in (*PACKAGES, *OPTIONAL)},
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else [],
        "heap": {name: os.environ.get(name) for name in HEAP},
        "offline": os.environ.get("HF_HUB_OFFLINE", "0") == "1",
    }


def heap_hint() -> str | None:
    """What to export for steady CPU times; None where it is done or does not apply."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc" or all(name in os.environ for name in HEAP):
        return None
    wanted = " ".join(f"{name}={value}" for name, value in HEAP.items())
    return f"On CPU, training is steadier and often faster when freed memory is kept:\n  export {wanted}"


def contracts() -> list[dict[str, Any]]:
    """What moiety relies on in other packages, and whether the installed releases keep it; takes seconds."""
    from moiety.vlm.contracts import ContractBroken
    from moiety.vlm.contracts.table import applicable

    checks: list[Any] = list(applicable())
    rows: list[dict[str, Any]] = []
    try:
        from moiety.vlm.contracts.behaviour import BEHAVIOURS

        checks += BEHAVIOURS
    except ImportError as error:  # a name that is imported is gone: the table says which
        rows.append({"library": "transformers", "contract": "moiety.vlm imports", "holds": False, "found": str(error)})
    for contract in checks:
        try:
            found = {"holds": True, "found": contract.check()}
        except ContractBroken as error:
            found = {"holds": False, "found": error.lacks}
        rows.append({"library": contract.library, "contract": contract.name, **found})
    return rows


def show_contracts(as_json: bool) -> bool:
    """Print them, the broken ones last and in words; whether all hold."""
    logging.getLogger("moiety").setLevel(logging.ERROR)  # receipts of the tiny models are of no interest here
    rows = contracts()
    broken = [row for row in rows if not row["holds"]]
    if as_json:
        show_json({"versions": facts()["packages"], "contracts": rows})
        return not broken
    lines = [
        (row["library"], row["contract"], f"holds  {row['found']}".rstrip() if row["holds"] else "BROKEN")
        for row in rows
    ]
    show(table("what moiety relies on", ("package", "contract", "here"), lines))
    for row in broken:
        show(f"{row['library']} {version_of(row['library'])}: {row['found']}")
    if broken:
        show(f"{len(broken)} of {len(rows)} do not hold. Install a tested release: see README, section Install")
    else:
        show(f"all {len(rows)} hold")
    return not broken


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Test what moiety relies on in the installed packages; takes seconds, uses no network."
        ),
    ] = False,
) -> None:
    """Show versions, devices and settings. With --check, test whether moiety works with the installed packages."""
    if check:
        if not show_contracts(as_json):
            raise CheckFailed
        return
    found = facts()
    if as_json:
        show_json(found)
        return
    packages = [(name, version or "not installed") for name, version in found["packages"].items()]
    rows = [
        ("moiety", found["moiety"]),
        ("python", found["python"]),
        *packages,
        ("machine", found["machine"]),
        ("cpu", f"{found['cpu']['cores']} cores, {found['cpu']['threads']} torch threads"),
        ("gpu", ", ".join(found["gpus"]) or "none"),
        ("Hugging Face hub", "offline (HF_HUB_OFFLINE=1)" if found["offline"] else "online"),
    ]
    show(table("environment", ("what", "value"), rows))
    if hint := heap_hint():
        show(hint)
