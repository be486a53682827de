#!/usr/bin/env python3
"""The content hash of ROOT files, computed independently of dask-runner (uproot only).

    python scripts/content_hash.py FILE ...

Prints `<sha256>  <file>`. The definition is in docs/chain.md. Reads whole branches: memory is that
of the largest branch.
"""

import hashlib
import sys

import numpy as np
import uproot


def levels(array: object) -> tuple[list[np.ndarray], np.ndarray]:
    """The running ends of the lists of each level, and the numbers."""
    layout = array.layout
    ends = []
    while layout.is_list:
        layout = layout.to_ListOffsetArray64(True)
        offsets = np.asarray(layout.offsets)
        ends.append(offsets[1:])
        layout = layout.content[: offsets[-1]]
    return ends, np.asarray(layout.data)


def line(tree: str, name: str, branch: object) -> str:
    ends, values = levels(branch.array(library="ak"))
    values = values.astype(values.dtype.newbyteorder("<"))
    kind = "list:" * len(ends) + values.dtype.str.lstrip("<|=")
    digests = [hashlib.sha256(end.astype("<i8").tobytes()).hexdigest() for end in ends]
    digests.append(hashlib.sha256(values.tobytes()).hexdigest())
    return "\t".join([tree, name, kind, str(branch.num_entries), *digests]) + "\n"


def content_hash(path: str) -> str:
    whole = hashlib.sha256()
    with uproot.open(path) as file:
        classes = file.classnames(recursive=True, cycle=False)
        for tree in sorted(name for name, kind in classes.items() if kind == "TTree"):
            for name in sorted(file[tree].keys(recursive=True)):
                whole.update(line(tree, name, file[tree][name]).encode())
    return whole.hexdigest()


def main() -> int:
    if len(sys.argv) == 1 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    for path in sys.argv[1:]:
        print(f"{content_hash(path)}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
