"""A batch over a cluster of two nodes: an actor is killed, and the rows are one machine's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("ray") is None:
    pytest.skip("Ray is not installed: no cluster is tried", allow_module_level=True)

from two_nodes import TwoNodes


def rows(count: int) -> str:
    lines = [json.dumps({"id": n, "prompt": f"the fox {n}", "w": n / 4}) for n in range(count)]
    lines[7] = '{"id": 7, "prompt": 7}'
    lines[20] = "\nno JSON"
    return "\n".join(lines)


def test_rows_are_one_machine_s_whatever_was_killed(tiny_gpt2: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(rows(90))
    (tmp_path / "b.jsonl").write_text(rows(25))
    asked = [sys.executable, "-m", "llmcli", "generate", "-m", str(tiny_gpt2), "--jsonl"]
    asked += ["-n", "60", "--ignore-eos", "--seed", "5", "-i", "[ab].jsonl"]
    one = [*asked, "-o", "one.jsonl", "--threads", "1"]
    assert subprocess.run(one, cwd=tmp_path, capture_output=True, check=False).returncode == 4
    parts = tmp_path / "parts"
    with TwoNodes() as cluster:
        many = [*asked, "-o", "parts", "--partition-rows", "4", "--ray", cluster.address]
        with subprocess.Popen(
            many, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            while process.poll() is None and not list(parts.glob("part-*")):
                time.sleep(0.01)
            assert cluster.kill_actor()
            out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (4, b""), err
    assert err.startswith(b"115 of 115 records, 4 errors, ")
    assert err.endswith(
        b"Error: 4 of 115 records are error records. Look for the field 'error' in the output.\n"
    )
    assert err.count(b"\n") == 2
    made = sorted(parts.iterdir())
    assert [path.name for path in made] == [
        "_llmcli.json",
        *(f"part-{number:08}.jsonl" for number in range(30)),
    ]
    joined = b"".join(path.read_bytes() for path in made[1:])
    assert joined == (tmp_path / "one.jsonl").read_bytes()
