"""All ops of the domain `ttc`, found in the folders beside this file: a new op is a new folder.

A folder says `OPS`, its signatures, and `ORDER`, where they stand in the table, in `docs/ops.md` (made from
this) and in a bundle's manifest. Signatures change only together with `DOMAIN_VERSION`.
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module

import ttc.plugins
from ttc.plugins.ops import OpSpec

__all__ = ["LAUNCHED_OPS", "OPS", "OPS_BY_NAME", "PRIMITIVE_OPS", "markdown"]


def _find_ops() -> tuple[OpSpec, ...]:
    names = [module.name for module in pkgutil.iter_modules(ttc.plugins.__path__) if module.ispkg]
    folders = [import_module(f"ttc.plugins.{name}") for name in names]
    folders.sort(key=lambda folder: (folder.ORDER, folder.__name__))
    return tuple(op for folder in folders for op in folder.OPS)


OPS: tuple[OpSpec, ...] = _find_ops()
OPS_BY_NAME: Mapping[str, OpSpec] = {op.name: op for op in OPS}
PRIMITIVE_OPS: tuple[OpSpec, ...] = tuple(op for op in OPS if not op.parts)
# Those that have a kernel.
LAUNCHED_OPS: tuple[OpSpec, ...] = tuple(op for op in OPS if op.launches == (op.name,))


def markdown() -> str:
    """Return the table of signatures as the body of a Markdown document."""
    lines = ["| op | inputs | outputs | attributes | parts |", "| --- | --- | --- | --- | --- |"]
    for op in OPS:
        inputs = "<br>".join(f"`{t.name}` {t.dtype} ({', '.join(t.shape)})" for t in op.inputs)
        outputs = "<br>".join(f"`{t.name}` {t.dtype} ({', '.join(t.shape)})" for t in op.outputs)
        attributes = ", ".join(f"`{name}` {kind}" for name, kind in op.attributes.items()) or "–"
        parts = " → ".join(f"`{name}`" for name in op.parts) or "–"
        lines.append(f"| `{op.name}`<br>{op.doc} | {inputs} | {outputs} | {attributes} | {parts} |")
    return "\n".join(lines) + "\n"
