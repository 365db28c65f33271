"""The rules of tensors in lanes that an op is given: halos, bundles and what goes together."""

from __future__ import annotations

from .list_arguments import Named, failure

# Tensors of lanes -> the argument that holds their halo, where it does not go by their own name.
_HALOS = {"grad_output": "grad_halo"}


def check_lanes(op: str, given: Named, shapes: dict[str, str], sizes: dict[str, int]) -> None:
    """Check every halo, and that images in lanes are of one size without it; note that size.

    shapes: what the extents of the op's tensors are called.  sizes: by those names.
    """
    if given.get("halo", 0) < 0:
        raise failure(op, f"a halo must be >= 0, got {given['halo']}")
    for name, extents in shapes.items():
        tensor = given.get(name)
        if tensor is None or not extents.endswith("' L"):
            continue
        halo = given["halo" if op == "from_lanes" else _HALOS.get(name, f"{name}_halo")]
        if halo < 0 or 2 * halo > min(tensor.shape[2:4]):
            raise failure(op, f"{name} {tuple(tensor.shape)} has no halo of {halo}")
        for extent, padded in zip(extents.split()[2:4], tensor.shape[2:4], strict=True):
            size = padded - 2 * halo
            if sizes.setdefault(extent.strip("'"), size) != size:
                raise failure(op, f"{name} is of other images: {size} pixels without its halo")
    if "B" in sizes and "batch" in given:
        batch, lanes = given["batch"], sizes["L"]
        if batch < 0 or lanes < 1 or -(-batch // lanes) != sizes["B"]:
            raise failure(op, f"{batch} images do not fill {sizes['B']} bundles of {lanes}")
    if "gate_scale" in given:
        scaled = given["gate_scale"] is not None
        if scaled != (given["gate_shift"] is not None) or (scaled and given["gate"] is not None):
            raise failure(op, "takes a gate, or its scale and shift, not both")
    if given.get("lanes", 1) < 1:
        raise failure(op, f"lanes must be >= 1, got {given['lanes']}")
