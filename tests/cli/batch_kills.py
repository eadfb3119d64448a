"""Kill -9 a batch at random moments, then let it end: the bytes are those of a run left alone.

By hand, for it takes minutes::

    python tests/cli/batch_kills.py [--kills 20] [--seed 1] [--verb generate]

Half of the moments are times after the start, when the output may not be there yet; half are
sizes of the output, and so mostly in the midst of writing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VERBS = {
    "generate": (["generate", "-n", "12", "--seed", "3", "--num-return-sequences", "2"], "jsonl"),
    "score": (["score", "--field", "prompt"], "jsonl"),
    "rank": (["rank", "a crow", "the cheese"], "jsonl"),
    "next": (["next", "-n", "3"], "jsonl"),
    "encode": (["encode", "--tokens"], "jsonl"),
    "parquet": (["next", "-n", "3"], "parquet"),
}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=1500)
    parser.add_argument("--verb", choices=VERBS, default="generate")
    chosen = parser.parse_args()
    (verb, *rest), suffix = VERBS[chosen.verb]
    chance = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"id": n, "prompt": f"The fox {n} said"} for n in range(chosen.records)]
        rows[11] = {"id": 11, "prompt": ""}
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [sys.executable, "-m", "llmcli", verb, "-m", "fable", "--jsonl", *rest]
        command += ["--threads", "1", "-q", "-i", "in.jsonl", "-o"]
        whole, part = folder / f"whole.{suffix}", folder / f"part.{suffix}"
        start = time.perf_counter()
        subprocess.run([*command, whole], cwd=folder, stderr=subprocess.DEVNULL, check=False)
        seconds, wanted = time.perf_counter() - start, sha256(whole)
        growing = part if suffix == "jsonl" else folder / f"part.{suffix}.partial.jsonl"
        end = whole.stat().st_size
        moments = []
        for kill in range(chosen.kills):
            size = growing.stat().st_size if growing.exists() else 0
            process = subprocess.Popen([*command, part, "--resume"], cwd=folder)
            if kill % 2:
                time.sleep(chance.uniform(0, seconds / 4))
            else:
                more = chance.uniform(0, 2 * (end - size) / chosen.kills)
                while process.poll() is None:
                    if growing.exists() and growing.stat().st_size >= size + more:
                        break
                    time.sleep(0.001)
            process.kill()
            process.wait()
            moments.append(growing.stat().st_size if growing.exists() else 0)
        done = subprocess.run(
            [*command, part, "--resume"], cwd=folder, stderr=subprocess.DEVNULL, check=False
        )
        same = sha256(part) == wanted
        print(f"{chosen.verb}: killed at bytes {moments} of about {end}")
        print(f"exit {done.returncode}, {'the same sha256' if same else 'ANOTHER sha256'}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
