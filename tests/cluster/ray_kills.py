"""Kill -9 an actor, a node and the driver of a batch over two nodes; compare with one machine.

By hand, for it takes minutes::

    python tests/cluster/ray_kills.py [--records 600] [--kills actor node driver]

Needs Ray and a machine of two processors. Prints a line a kill, and exits 1 if any differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from two_nodes import TwoNodes

ASKED = [sys.executable, "-m", "llmcli", "generate", "-m", "fable", "--jsonl", "--seed", "5"]
ASKED += ["-n", "24", "-i", "in.jsonl"]


def sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def killed(kind: str, folder: Path) -> str:
    """Run the batch, kill something in the midst of it, and go on where that is needed."""
    out = folder / kind
    with TwoNodes() as cluster:
        command = [*ASKED, "-o", str(out), "--partition-rows", "10", "--ray", cluster.address]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE)
        while process.poll() is None and len(parts(out)) < 3:
            time.sleep(0.01)
        begun = len(parts(out))
        if kind == "actor":
            assert cluster.kill_actor()
        elif kind == "node":
            cluster.kill_node()
        else:
            process.kill()
        _, said = process.communicate()
        done = len(parts(out))
        if kind == "driver":
            again = subprocess.run(
                [*command, "--resume"], cwd=folder, stderr=subprocess.PIPE, check=False
            )
            said, code = again.stderr, again.returncode
        else:
            code = process.returncode
        assert code == 4, said.decode()
        print(f"{kind}: killed at part {begun}, {done} parts before any resuming")
    return sha256(parts(out))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--records", type=int, default=600)
    arguments.add_argument("--kills", nargs="+", default=["actor", "node", "driver"])
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [json.dumps({"id": n, "prompt": f"The fox {n}"}) for n in range(chosen.records)]
        rows[17] = '{"id": 17, "prompt": null}'
        (folder / "in.jsonl").write_text("\n".join(rows))
        subprocess.run([*ASKED, "-o", "one.jsonl", "-q"], cwd=folder, check=False)
        wanted = sha256([folder / "one.jsonl"])
        same = True
        for kind in chosen.kills:
            start = time.perf_counter()
            equal = killed(kind, folder) == wanted
            same = same and equal
            print(
                f"{kind}: {'the same bytes' if equal else 'DIFFERENT'}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
