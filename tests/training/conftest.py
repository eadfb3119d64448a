"""The fixture that whole runs stand on."""

from __future__ import annotations

from training_runs import tales as tales
